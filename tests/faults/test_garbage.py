"""Finalizers, weakref callbacks and signal handlers that use the pool, on top of whatever is being done."""

from __future__ import annotations

import pytest

from tests.faults import children

# Seconds for each of the six or seven calls.
EACH = "1" if children.ALL else "0.2"
LIMIT = 600.0


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("kind", ["finalizer", "weakref", "handler"])
@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_called_out_of_turn(pool: str, kind: str) -> None:
    """None of the calls deadlocks or raises, and every task is accounted for in the end."""
    children.check(children.run("garbage", pool, kind, "all", "--each", EACH, seconds=LIMIT))
