"""What pools counted between two times: exactly as it was scraped, and not extrapolated as `increase()` does.

Each sample is compared with the one before. A counter that has fallen began anew at 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prodpool.monitoring.postmortem.pool_history import InstanceKey, MetricKey, PoolHistory, PoolKey
from prodpool.monitoring.postmortem.prometheus_api import Point
from prodpool.task.outcomes import AFTER_ADMISSION, Reason

# Of the results: a task that ended in another way, such as by an exception that is expected, has not failed.
FAILURES = ("error", "panic", "timeout")
# A task that its own caller cancelled, or offered to a pool that was told to stop, is no failure of the pool.
NO_LOSS = (Reason.CANCELLED, Reason.CLOSED)


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """What all instances of one pool counted; a metric that none of them exports is missing."""

    counts: Counter[MetricKey]

    def total(self, metric: str) -> int | None:
        """Return the sum over all labels; None if no instance exports it."""
        parts = self.by_label(metric)
        return sum(parts.values()) if parts else None

    def by_label(self, metric: str) -> dict[str, int]:
        """Return the counts by the value of the metric's label; empty if no instance exports it."""
        found = {
            ", ".join(key.labels): count for key, count in sorted(self.counts.items()) if key.name == metric
        }
        return dict(sorted(found.items(), key=lambda each: -each[1]))

    @property
    def bad(self) -> int:
        """Tasks that failed or were lost, as the alerts on the error budget have it."""
        return sum(count for key, count in self.counts.items() if is_bad(key))

    @property
    def ended(self) -> int:
        """Tasks that finished or were lost."""
        return sum(count for key, count in self.counts.items() if is_end(key))

    @property
    def bad_share(self) -> float | None:
        """Of the tasks that ended, the share that failed or was lost; None if none ended."""
        return self.bad / self.ended if self.ended else None


def is_bad(key: MetricKey) -> bool:
    """Tell whether a counter counts tasks that failed or were lost."""
    return is_end(key) and (key.name == "dropped" or key.labels[0] in FAILURES)


def is_end(key: MetricKey) -> bool:
    """Tell whether a counter counts tasks that finished or were lost."""
    return key.name == "completed" or (key.name == "dropped" and key.labels[0] not in NO_LOSS)


def count(history: PoolHistory, pool: PoolKey) -> PoolCounts:
    """Count what all instances of a pool did."""
    counts: Counter[MetricKey] = Counter()
    for instance, metrics in history.counters.items():
        if instance.of_pool != pool:
            continue
        own = Counter(
            {
                key: round(sum(grown for _, grown in growth(history, instance, points)))
                for key, points in metrics.items()
            }
        )
        # Both are one number; a version before 0.2 does not export the first.
        offered = MetricKey("offered", ())
        own[offered] = max(own[offered], own[MetricKey("submitted", ())] + _refused(own))
        counts.update(own)
    return PoolCounts(counts)


def _refused(counts: Counter[MetricKey]) -> int:
    return sum(
        number
        for key, number in counts.items()
        if key.name == "dropped" and key.labels[0] not in AFTER_ADMISSION
    )


def growth(history: PoolHistory, instance: InstanceKey, points: list[Point]) -> Iterator[Point]:
    """Yield by how much a counter had grown at each point since the one before."""
    if not points:
        return
    at, before = points[0]
    if _counted_from_zero(history, instance, at):
        yield at, before
    for at, value in points[1:]:
        yield at, value - before if value >= before else value
        before = value


def _counted_from_zero(history: PoolHistory, instance: InstanceKey, first: float) -> bool:
    """Tell whether all that the first point has counted was counted after the beginning."""
    starts = history.process_starts.get((instance.job, instance.instance), [])
    if first <= history.range.start or not starts:
        return False
    was_scraped_without_it = starts[0][0] < first
    started = max((value for at, value in starts if at <= first), default=0.0)
    return was_scraped_without_it or started >= history.range.start


def growth_of(history: PoolHistory, pool: PoolKey, wanted: Iterable[MetricKey]) -> dict[float, float]:
    """Return by how much some counters of a pool had grown together at each step since the step before."""
    chosen = set(wanted)
    grown: Counter[float] = Counter()
    for instance, metrics in history.counters.items():
        if instance.of_pool == pool:
            for key, points in metrics.items():
                if key in chosen:
                    for at, value in growth(history, instance, points):
                        grown[at] += value  # type: ignore[assignment]
    return dict(grown)
