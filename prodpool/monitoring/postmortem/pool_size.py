"""How large pools were, what they were offered and how far it went: before, during and now."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from prodpool.monitoring.formatting import duration
from prodpool.monitoring.postmortem.pool_history import MetricKey, PoolHistory, PoolKey, selector
from prodpool.monitoring.postmortem.prometheus_api import PrometheusApi
from prodpool.task.outcomes import AFTER_ADMISSION

_BY = "by (job, pool)"
_AFTER = "|".join(AFTER_ADMISSION)
# Seconds that "now" looks back over, unless the incident was shorter.
_LATELY = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSize:
    """One pool over some time, all instances together; what is None is not known.

    Attributes:
        workers, queue_capacity: At its end.
        arrival_rate: Tasks offered per second, admitted or not.
        mean_duration, p99_duration: Seconds that tasks ran which finished in that time.
    """

    workers: float | None
    queue_capacity: float | None
    arrival_rate: float | None
    mean_duration: float | None
    p99_duration: float | None

    @property
    def workers_needed(self) -> float | None:
        """Workers that the offered load keeps busy. Source: Little's law, L = arrival rate x time."""
        if self.arrival_rate is None or self.mean_duration is None:
            return None
        return self.arrival_rate * self.mean_duration


def pool_sizes(
    api: PrometheusApi, history: PoolHistory, now: float
) -> dict[PoolKey, tuple[PoolSize, PoolSize, PoolSize]]:
    """Return the size of each pool in as long a time before the range, in the range, and lately."""
    when = history.range
    before = _sizes(api, history, when.start, when.seconds)
    during = _sizes(api, history, when.end, when.seconds)
    lately = _sizes(api, history, now, min(when.seconds, _LATELY))
    return {pool: (before[pool], during[pool], lately[pool]) for pool in history.pools}


@dataclass(frozen=True, slots=True)
class PoolPeaks:
    """The highest values that gauges of one pool had, over all instances; None where there was no sample.

    Attributes:
        queue_depth, hung_tasks: Sums over the instances.
        oldest_queued: Seconds that the first task of any queue had waited.
    """

    queue_depth: float | None
    hung_tasks: float | None
    oldest_queued: float | None


def pool_peaks(api: PrometheusApi, history: PoolHistory) -> dict[PoolKey, PoolPeaks]:
    """Return the peaks of each pool in the range."""
    when = history.range
    oldest = f"workerpool_oldest_queued_seconds{{{_chosen(history)}}}[{duration(when.seconds)}]"
    waited = _ask(api, f"max {_BY} (max_over_time({oldest}))", when.end)
    return {
        pool: PoolPeaks(
            _highest_sum(history, pool, "queue_depth"),
            _highest_sum(history, pool, "hung_tasks"),
            waited.get(pool),
        )
        for pool in history.pools
    }


def _highest_sum(history: PoolHistory, pool: PoolKey, gauge: str) -> float | None:
    sums: Counter[float] = Counter()
    for instance, metrics in history.gauges.items():
        if instance.of_pool == pool:
            for at, value in metrics.get(MetricKey(gauge, ()), []):
                sums[at] += value  # type: ignore[assignment]
    return max(sums.values(), default=None)


def _sizes(api: PrometheusApi, history: PoolHistory, end: float, seconds: float) -> dict[PoolKey, PoolSize]:
    chosen = _chosen(history)

    def series(metric: str, *matchers: str) -> str:
        return f"workerpool_{metric}{{{', '.join((chosen, *matchers))}}}"

    def rate(metric: str, *matchers: str) -> str:
        return f"rate({series(metric, *matchers)}[{duration(seconds)}])"

    def ask(expr: str) -> dict[PoolKey, float]:
        return _ask(api, expr, end)

    refused = rate("dropped_total", f'reason!~"{_AFTER}"')
    run = "task_duration_seconds"
    workers = ask(f"sum {_BY} ({series('workers')})")
    capacity = ask(f"sum {_BY} ({series('queue_capacity')})")
    rates = ask(f"sum {_BY} ({rate('submitted_total')} or {refused})")
    means = ask(f"sum {_BY} ({rate(f'{run}_sum')}) / sum {_BY} ({rate(f'{run}_count')})")
    p99s = ask(f"histogram_quantile(0.99, sum by (job, pool, le) ({rate(f'{run}_bucket')}))")
    return {
        pool: PoolSize(
            workers=workers.get(pool),
            queue_capacity=capacity.get(pool),
            arrival_rate=rates.get(pool),
            mean_duration=means.get(pool),
            p99_duration=p99s.get(pool),
        )
        for pool in history.pools
    }


def _chosen(history: PoolHistory) -> str:
    return selector({key.pool for key in history.pools}, {key.job for key in history.pools if key.job})


def _ask(api: PrometheusApi, expr: str, at: float) -> dict[PoolKey, float]:
    return {
        PoolKey(one.labels.get("job", ""), one.labels.get("pool", "")): one.points[0][1]
        for one in api.query(expr, at)
        if not math.isnan(one.points[0][1])
    }
