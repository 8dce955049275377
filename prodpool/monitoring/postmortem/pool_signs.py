"""When something was first seen to be wrong with a pool, whether or not an alert is about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prodpool.monitoring.formatting import decimal
from prodpool.monitoring.postmortem.pool_counts import growth_of, is_bad, is_end
from prodpool.monitoring.postmortem.pool_history import MetricKey, PoolHistory, PoolKey
from prodpool.monitoring.thresholds import FASTEST_BURN

# Seconds over which a share of failures is seen, and that what has ended must be over to be told as the end.
_SHARE_WINDOW, _CALM = 60.0, 300.0
_BREAKER = "a breaker is not closed"


@dataclass(frozen=True, slots=True)
class SignSpell:
    """How long a pool showed a sign that something is wrong.

    Attributes:
        begun, over: What is told of its beginning and of its end.
        is_told_apart: Whether a timeline tells of it in each instance anyway.
        start, end: Unix times; ``end`` is None if it was not over within the range.
    """

    pool: PoolKey
    begun: str
    over: str
    start: float
    end: float | None
    is_told_apart: bool = False


def sign_spells(history: PoolHistory, pool: PoolKey, budget: float) -> Iterator[SignSpell]:
    """Yield what was wrong with a pool; ``budget`` is the share of the tasks that may end badly."""
    limit = FASTEST_BURN * budget
    share = f"{decimal(round(100 * limit, 2))} % of the tasks that ended"
    for begun, over, times in (
        ("a queue is full", "no queue is full any more", _when(history, pool, _is_full)),
        ("tasks hang", "no task hangs any more", _when(history, pool, _hangs)),
        (_BREAKER, "all breakers are closed", _when(history, pool, _is_not_closed)),
        (
            f"more than {share} in a minute failed or were lost",
            f"again fewer than {share} in a minute fail or are lost",
            _failing(history, pool, limit),
        ),
    ):
        for start, end in _spells(history, times):
            yield SignSpell(pool, begun, over, start, end, begun == _BREAKER)


def _is_full(values: dict[MetricKey, float]) -> bool:
    capacity = values.get(MetricKey("queue_capacity", ()), 0.0)
    return 0 < capacity <= values.get(MetricKey("queue_depth", ()), 0.0)


def _hangs(values: dict[MetricKey, float]) -> bool:
    return values.get(MetricKey("hung_tasks", ()), 0.0) > 0


def _is_not_closed(values: dict[MetricKey, float]) -> bool:
    return any(
        value > 0
        for key, value in values.items()
        if key.name == "breaker_state" and key.labels != ("closed",)
    )


def _when(history: PoolHistory, pool: PoolKey, holds: Callable[[dict[MetricKey, float]], bool]) -> set[float]:
    """Return the steps at which something held in any instance."""
    found: set[float] = set()
    for instance, metrics in history.gauges.items():
        if instance.of_pool == pool:
            by_time: dict[float, dict[MetricKey, float]] = {}
            for key, points in metrics.items():
                for at, value in points:
                    by_time.setdefault(round(at, 3), {})[key] = value
            found |= {at for at, values in by_time.items() if holds(values)}
    return found


def _failing(history: PoolHistory, pool: PoolKey, limit: float) -> set[float]:
    """Return the steps at which tasks failed, in each minute in which more than ``limit`` of all did."""
    keys = {key for metrics in history.counters.values() for key in metrics}
    bad = growth_of(history, pool, filter(is_bad, keys))
    ended = growth_of(history, pool, filter(is_end, keys))
    steps, times = max(1, round(_SHARE_WINDOW / history.step)), sorted(ended)
    found: set[float] = set()
    for number in range(len(times)):
        minute = times[number : number + steps]
        if sum(bad.get(at, 0) for at in minute) > limit * sum(ended[at] for at in minute):
            found |= {round(at, 3) for at in minute if bad.get(at, 0) > 0}
    return found


def _spells(history: PoolHistory, found: set[float]) -> Iterator[tuple[float, float | None]]:
    """Yield the first and the first following step without it, of each time that it lasted."""
    start = last = None
    for at in history.times:
        if at in found:
            start, last = (at if start is None else start), at
        elif start is not None and last is not None and at - last > max(_CALM, 2 * history.step):
            yield start, _next(history, last)
            start = last = None
    if start is not None and last is not None:
        yield start, _next(history, last)


def _next(history: PoolHistory, last: float) -> float | None:
    return next((at for at in history.times if at > last), None)
