"""The counters of one pool: plain numbers, added to on the hot path and read at scrape.

The dispatcher's lock guards every field, so that any one reading adds up (conservation). A tally per
worker without a lock was the plan; one set of counters under the lock that is held anyway measured the same
and makes every scrape exact (docs/decisions, D4).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from prodpool.config.settings import DEFAULT_BUCKETS
from prodpool.config.task_metrics import OTHER
from prodpool.task.outcomes import LossCause, Reason, Result


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One traced observation of a bucket: its trace and span, its value in seconds, its Unix time.

    The ids are hexadecimal.
    """

    trace_id: str
    span_id: str
    value: float
    timestamp: float


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram at one moment. ``buckets``: (upper bound, observations up to it, exemplar)."""

    buckets: tuple[tuple[float, int, Exemplar | None], ...]
    total: float
    count: int


class Histogram:
    """Counts of seconds by bucket. The hot path adds to ``counts`` and ``total`` itself."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0
        self.exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float) -> None:
        """Add one observation of ``value`` seconds."""
        index = bisect_left(self.bounds, value)
        count, total = self.counts[index] + 1, self.total + value
        self.counts[index] = count
        self.total = total

    def keep(self, index: int, exemplar: Exemplar | None) -> None:
        """Keep the newest exemplar of a bucket."""
        if exemplar is not None:
            self.exemplars[index] = exemplar

    def read(self) -> HistogramSnapshot:
        """Return the cumulative buckets, the last of them unbounded."""
        bounds = (*self.bounds, float("inf"))
        cumulative = tuple(accumulate(self.counts))
        buckets = tuple(
            (bound, count, self.exemplars.get(index))
            for index, (bound, count) in enumerate(zip(bounds, cumulative, strict=True))
        )
        return HistogramSnapshot(buckets, self.total, cumulative[-1])


class TaskCounters:
    """How the tasks of one name ended, and the seconds that they ran."""

    __slots__ = ("results", "run_seconds")

    def __init__(self) -> None:
        self.results = dict.fromkeys(Result, 0)
        self.run_seconds = 0.0


class PoolCounters:
    """What happened to the tasks and workers of one pool since it was built."""

    __slots__ = (
        "abandoned",
        "admission_wait",
        "busy_seconds",
        "by_task",
        "dropped",
        "duration",
        "dwell",
        "not_ok",
        "ok",
        "scheduling_delay",
        "slow",
        "submitted",
        "workers_lost",
        "workers_started",
    )

    def __init__(self, bounds: Sequence[float], task_metrics: Sequence[str] | None = None) -> None:
        self.submitted = 0
        # Apart from the others: hashing an enum member costs more than the rest of a fast settlement.
        self.ok = 0
        self.not_ok: dict[Result, int] = {result: 0 for result in Result if result is not Result.OK}
        self.dropped = dict.fromkeys(Reason, 0)
        self.slow = 0
        self.abandoned = 0
        self.workers_started = 0
        self.workers_lost = dict.fromkeys(LossCause, 0)
        self.busy_seconds = 0.0
        self.dwell = Histogram(bounds)
        self.duration = Histogram(bounds)
        self.admission_wait = Histogram(bounds)
        # Milliseconds count here, whatever the tasks of the pool take.
        self.scheduling_delay = Histogram(DEFAULT_BUCKETS)
        # By the names that are counted apart, and one for all others; empty if none are.
        names = () if task_metrics is None else (*task_metrics, OTHER)
        self.by_task = {name: TaskCounters() for name in names}

    def of_task(self, name: str) -> TaskCounters:
        """Return what tasks of that name are counted in; `by_task` must not be empty."""
        return self.by_task.get(name) or self.by_task[OTHER]

    def completed(self) -> dict[Result, int]:
        """Return how many tasks finished, by result."""
        return {Result.OK: self.ok, **self.not_ok}

    def finished_and_dropped(self) -> tuple[int, int]:
        """Return how many tasks have finished, and how many a stop has dropped."""
        return sum(self.completed().values()), self.dropped[Reason.SHUTDOWN]
