"""How far ahead of its workers a backend is handed tasks, and a worker process is sent calls."""

from __future__ import annotations

import pytest

from prodpool.workers.processes import prefetch as processes
from prodpool.workers.run_times import (
    MAX_PER_WORKER,
    MAX_TOTAL,
    MIN_SAMPLES,
    TARGET_BACKLOG_SECONDS,
    AdaptivePrefetch,
)


def run(pace: AdaptivePrefetch, seconds: float, times: int = 2 * MIN_SAMPLES, *, wanted: bool = True) -> int:
    """Have tasks run for so long, and return how many are handed over ahead after that."""
    for _ in range(times):
        pace.add(seconds)
        pace.update(2, wanted=wanted)
    return pace.ahead


def test_short_tasks_are_handed_over_ahead() -> None:
    """As many as are done within a few milliseconds, up to a limit, for each worker."""
    assert run(AdaptivePrefetch(1, fixed=False), TARGET_BACKLOG_SECONDS / 4) == 2 * 4
    assert run(AdaptivePrefetch(1, fixed=False), TARGET_BACKLOG_SECONDS / 1000) == 2 * MAX_PER_WORKER
    assert run(AdaptivePrefetch(1, fixed=False), 0.0) == 2 * MAX_PER_WORKER


@pytest.mark.parametrize("least", [1, 4])
def test_long_tasks_are_not(least: int) -> None:
    """One of them is enough to have no more than the least number waiting behind it."""
    pace = AdaptivePrefetch(least, fixed=False)
    assert run(pace, 1.0) == least
    assert run(pace, TARGET_BACKLOG_SECONDS / 100, times=5000) == 2 * MAX_PER_WORKER
    assert run(pace, 1.0, times=1) == least


def test_not_before_it_is_known() -> None:
    """A few short tasks say nothing about the next."""
    assert run(AdaptivePrefetch(1, fixed=False), 0.0, times=MIN_SAMPLES - 1) == 1


def test_not_without_a_queue() -> None:
    """Where nothing waits nothing is to be handed over ahead."""
    assert run(AdaptivePrefetch(1, fixed=False), 0.0, wanted=False) == 1


def test_small_changes_change_nothing() -> None:
    """Tasks that take a little longer, or less, do not have it count all the time."""
    pace = AdaptivePrefetch(1, fixed=False)
    first = run(pace, TARGET_BACKLOG_SECONDS / 8)
    changes = 0
    for number in range(100):
        pace.add(TARGET_BACKLOG_SECONDS / (7.2 if number % 2 else 8.8))
        changes += pace.update(2, wanted=True)
    assert first == 16
    assert changes <= 2


def test_a_number_that_was_asked_for() -> None:
    """It stays."""
    assert run(AdaptivePrefetch(3, fixed=True), 0.0) == 3


def test_many_workers() -> None:
    """There is a limit to how many all of them together are handed ahead."""
    pace = AdaptivePrefetch(1, fixed=False)
    for _ in range(2 * MIN_SAMPLES):
        pace.add(0.0)
        pace.update(100, wanted=True)
    assert pace.ahead == MAX_TOTAL


def sent_ahead(
    seconds: float, times: int = 2 * processes.MIN_SAMPLES, pace: processes.WorkerPrefetch | None = None
) -> int:
    """Have tasks of one worker process run for so long; return how many are sent ahead after that."""
    pace = pace or processes.WorkerPrefetch()
    for _ in range(times):
        pace.add(seconds)
    return pace.ahead()


@pytest.mark.parametrize(
    ("seconds", "ahead"),
    [
        (0.0, MAX_PER_WORKER),
        (TARGET_BACKLOG_SECONDS / 1000, MAX_PER_WORKER),
        (TARGET_BACKLOG_SECONDS / 4, 4),
        (TARGET_BACKLOG_SECONDS * 0.9, 1),
        (TARGET_BACKLOG_SECONDS * 1.1, 0),
        (1.0, 0),
    ],
)
def test_calls_are_sent_ahead_while_tasks_are_short(seconds: float, ahead: int) -> None:
    """As many as are done within a few milliseconds; none behind a task that is longer than that."""
    assert sent_ahead(seconds) == ahead


def test_no_call_is_sent_ahead_before_it_is_known() -> None:
    """A few short tasks say nothing about the next."""
    assert sent_ahead(0.0, times=processes.MIN_SAMPLES - 1) == 0
    assert sent_ahead(0.0, times=processes.MIN_SAMPLES) == MAX_PER_WORKER


def test_one_long_task_is_enough() -> None:
    """After it nothing is sent ahead until many short ones have come."""
    pace = processes.WorkerPrefetch()
    assert sent_ahead(0.0, times=1000, pace=pace) == MAX_PER_WORKER
    assert sent_ahead(1.0, times=1, pace=pace) == 0
    assert sent_ahead(0.0, times=5, pace=pace) == 0
    assert sent_ahead(0.0, times=1000, pace=pace) == MAX_PER_WORKER
