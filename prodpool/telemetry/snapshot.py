"""One pool at one moment: the numbers that a scrape, `stats()` and the terminal show alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prodpool.task.outcomes import LossCause, Reason, Result
from prodpool.telemetry.counters import HistogramSnapshot, PoolCounters

BREAKER_STATES = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSnapshot:
    """Everything that is exported of one pool. Times in seconds; taken under one lock, so it adds up."""

    pool: str
    backend: str
    version: str
    state: str
    workers: int
    queue_capacity: int
    queued: int
    running: int
    submitted: int
    completed: Mapping[Result, int]
    dropped: Mapping[Reason, int]
    dwell: HistogramSnapshot
    duration: HistogramSnapshot
    admission_wait: HistogramSnapshot
    busy_seconds: float
    oldest_queued: float
    longest_running: float
    hung: int
    slow: int
    abandoned: int
    workers_started: int
    workers_lost: Mapping[LossCause, int]
    backend_rebuilds: int
    telemetry_errors: Mapping[str, int]
    breaker: str | None
    scheduling_delay: HistogramSnapshot
    knobs: Mapping[str, float]
    finished_by_task: Mapping[tuple[str, Result], int]
    run_seconds_by_task: Mapping[str, float]


class Source(Protocol):
    """Where an exporter gets the numbers of one pool: the pool's reader, or what a stopped pool leaves."""

    def snapshot(self) -> PoolSnapshot:
        """Read the pool now; safe from any thread that does not hold the pool's lock."""
        ...


def tally(counters: PoolCounters) -> dict[str, Any]:
    """Return the fields of a snapshot that the counters know; the caller holds the pool's lock."""
    return {
        "submitted": counters.submitted,
        "completed": counters.completed(),
        "dropped": dict(counters.dropped),
        "dwell": counters.dwell.read(),
        "duration": counters.duration.read(),
        "admission_wait": counters.admission_wait.read(),
        "slow": counters.slow,
        "abandoned": counters.abandoned,
        "workers_started": counters.workers_started,
        "workers_lost": dict(counters.workers_lost),
        "scheduling_delay": counters.scheduling_delay.read(),
        "finished_by_task": {
            (name, result): count
            for name, tasks in counters.by_task.items()
            for result, count in tasks.results.items()
        },
        "run_seconds_by_task": {name: tasks.run_seconds for name, tasks in counters.by_task.items()},
    }


class StoppedPoolSource:
    """What is left of a stopped pool for scrapes: its numbers, and nothing of its machinery.

    Refused submits and errors of sinks go on to be counted in them. There are no tasks any more, so it needs
    no lock.
    """

    __slots__ = ("_counters", "_errors", "_facts")

    def __init__(
        self, facts: dict[str, Any], counters: PoolCounters, errors: Callable[[], Mapping[str, int]]
    ) -> None:
        self._facts = facts
        self._counters = counters
        self._errors = errors

    def snapshot(self) -> PoolSnapshot:
        """Read the numbers now."""
        return PoolSnapshot(**self._facts, **tally(self._counters), telemetry_errors=self._errors())
