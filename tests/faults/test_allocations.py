"""Each allocation of what the pool can be asked fails once."""

from __future__ import annotations

import importlib.util

import pytest

from tests.faults import children

LIMIT = 1000.0 if children.ALL else 100.0
NAMES = [
    *("submit_parked", "submit_queued", "submit_full", "stats", "dump", "resume", "stop", "scrape"),
    *("caller_runs", "result", "fail", "breaker", "cancel", "deadline", "expires_in_line"),
]
REMOTE = ["submit_idle", "submit_busy", "cancel_remote", "result"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(LIMIT + 20),
    pytest.mark.skipif(
        importlib.util.find_spec("_testcapi") is None,
        reason="this CPython has no _testcapi to fail allocations",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_threads(name: str) -> None:
    """After a failed allocation the law holds, nothing waits for ever, and the pool works and stops."""
    check(f"{name}:executor", 25)


@pytest.mark.parametrize("name", REMOTE)
def test_processes(name: str) -> None:
    """The same over worker processes."""
    check(f"{name}:processes", 5)


def test_many_ahead() -> None:
    """The same while many calls are sent ahead: a sample, since each allocates as the one before."""
    check("map_remote:processes", 5, at_most=200)


def check(name: str, points: int, *, at_most: int | None = None) -> None:
    # Beyond these it is the stop's own thread that lacks memory while it comes up: CPython's ``Thread.start``
    # then waits for it for ever, whoever starts it.
    sample = ["--points", str(points)] if name.startswith("stop:") else children.sample(points, at_most)
    told = children.run_fragile("allocations", name, *sample, "--most", "3", seconds=LIMIT)
    children.check(told)
