"""Fixtures of the tests of the public API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.tasks import BlockingTask
from tests.support import MakePool


@pytest.fixture
def gate(make_pool: MakePool) -> Iterator[BlockingTask]:
    """Return a gate that opens at the end of the test at the latest, before its pools are stopped."""
    gate = BlockingTask()
    yield gate
    gate.release()
