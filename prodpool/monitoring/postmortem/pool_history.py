"""What a Prometheus stored of the pools of one or several services, between two times."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median
from typing import NamedTuple

from prodpool.monitoring.formatting import duration
from prodpool.monitoring.postmortem.prometheus_api import Point, PrometheusApi, QueriedSeries
from prodpool.monitoring.postmortem.time_range import TimeRange, moment

# Prometheus answers a query over a range with 11,000 points a series at most.
MOST_POINTS = 10_900
# Of all series of one answer together: some 40 MB of JSON.
_MOST_POINTS_IN_ALL = 1_000_000
_DEFAULT_INTERVAL = 15.0
# How far Prometheus looks back for the newest sample of a series.
_LOOKBACK = 300.0
# Of a step, and of a second: what is less comes of rounding.
_TINY, _LEAST = 1e-6, 1e-3
# Steps without a sample that are a gap and not a scrape or two that failed.
GAP = 3.0
_PLACE = ("job", "pool", "instance")
# Labels that tell apart the series of one metric of one pool in one process.
_OWN = {
    "completed": ("result",),
    "dropped": ("reason",),
    "workers_lost": ("cause",),
    "breaker_state": ("state",),
    "info": ("backend", "version"),
}
# Targets may have labels called so: their values are no part of which instance it is.
_OF_METRICS = {"__name__", *(label for labels in _OWN.values() for label in labels)}

_COUNTERS = "(offered|submitted|completed|dropped|abandoned|workers_lost|backend_rebuilds)_total"
_GAUGES = "(queue_depth|queue_capacity|workers|hung_tasks|breaker_state|stopped|info)"


class NoPoolError(RuntimeError):
    """Raised when Prometheus has no pool, job or sample of those asked for; the message says which it has."""


class PoolKey(NamedTuple):
    """One pool of one service."""

    job: str
    pool: str


class InstanceKey(NamedTuple):
    """One pool in one scraped instance; ``others`` are the labels beyond ours, such as a namespace."""

    job: str
    pool: str
    instance: str
    others: tuple[tuple[str, str], ...]

    @property
    def of_pool(self) -> PoolKey:
        """The pool, whichever the instance."""
        return PoolKey(self.job, self.pool)


class MetricKey(NamedTuple):
    """A metric without its prefix, and the values of its labels beside ``pool``."""

    name: str
    labels: tuple[str, ...]


MetricPoints = dict[InstanceKey, dict[MetricKey, list[Point]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolHistory:
    """What was found.

    Attributes:
        step: Seconds between two points; no time is known better than that.
        pools: Those that were asked for, or else those of which there are samples or alerts.
        counters, gauges: By instance and metric.
        scrapes: By instance, when its samples were scraped.
        process_starts: By job and instance, when the process has said to have started.
        alerts, alerts_since: The series ALERTS and ALERTS_FOR_STATE of these pools.
    """

    range: TimeRange
    step: float
    pools: tuple[PoolKey, ...]
    counters: MetricPoints
    gauges: MetricPoints
    scrapes: dict[InstanceKey, list[float]]
    process_starts: dict[tuple[str, str], list[Point]]
    alerts: list[QueriedSeries]
    alerts_since: list[QueriedSeries]

    @property
    def times(self) -> list[float]:
        """The unix times of the steps; the last one is the end, even if that is no whole step."""
        count = int(self.range.seconds / self.step + _TINY)
        steps = [round(self.range.start + number * self.step, 3) for number in range(count + 1)]
        return steps if self.range.end - steps[-1] < _LEAST else [*steps, self.range.end]

    def has_ended(self, instance: InstanceKey) -> bool:
        """Tell whether an instance was scraped no more before the end: a scrape or two may have failed."""
        return self.range.end - self.scrapes[instance][-1] > GAP * self.step

    def instances(self, pool: PoolKey) -> list[InstanceKey]:
        """Return the instances in which a pool was scraped."""
        return sorted(key for key in self.scrapes if key.of_pool == pool)


def selector(pools: Iterable[str], jobs: Iterable[str]) -> str:
    """Return the matchers of the pools and jobs named; of all, where none is named."""
    return f"{_matcher('pool', pools)}, {_matcher('job', jobs)}"


def read_history(
    api: PrometheusApi, when: TimeRange, pools: Sequence[str] = (), jobs: Sequence[str] = ()
) -> PoolHistory:
    """Ask a Prometheus for everything that is known of the pools named, by default of all.

    Raises:
        NoPoolError: It has no pool at all, none of those named, or no sample of any in that time.
        PrometheusApiError: It cannot be asked, or refuses.
    """
    _check_names(api, pools, jobs)
    chosen = selector(pools, jobs)
    step = _step(api, when, chosen)

    # What ended between two steps that are further apart would not be seen at the second.
    is_seen = step <= _LOOKBACK

    def read(series: str) -> list[QueriedSeries]:
        return _read(api, when, step, series if is_seen else f"last_over_time({series}[{duration(step)}])")

    times = f"timestamp(workerpool_workers{{{chosen}}})"
    newest = times if is_seen else f"max_over_time({times}[{duration(step)}:{duration(_LOOKBACK)}])"
    scrapes = _scrapes(_read(api, when, step, newest), when)
    scraped = {key.of_pool for key in scrapes}
    alerts = [one for one in read(f"ALERTS{{{chosen}}}") if _is_ours(one, scraped)]
    found = scraped | {_pool_of(one) for one in alerts}
    # What a process as a whole lacks is told without a pool.
    of_processes = f'component="workerpool", pool="", {_matcher("job", {pool.job for pool in found})}'
    alerts += read(f"ALERTS{{{of_processes}}}") if found else []
    if not found and not pools:
        raise NoPoolError(_nothing_then(api, when, chosen))
    unseen = {PoolKey(", ".join(jobs), pool) for pool in set(pools) - {key.pool for key in found}}
    return PoolHistory(
        range=when,
        step=step,
        pools=tuple(sorted(found | unseen)),
        counters=_by_instance(read(f'{{__name__=~"workerpool_{_COUNTERS}", {chosen}}}')),
        gauges=_by_instance(read(f'{{__name__=~"workerpool_{_GAUGES}", {chosen}}}')),
        scrapes=scrapes,
        process_starts=_process_starts(read, {pool.job for pool in found}),
        alerts=alerts,
        alerts_since=[
            *(one for one in read(f"ALERTS_FOR_STATE{{{chosen}}}") if _is_ours(one, found)),
            *read(f"ALERTS_FOR_STATE{{{of_processes}}}"),
        ],
    )


def _check_names(api: PrometheusApi, pools: Sequence[str], jobs: Sequence[str]) -> None:
    there = api.label_values("job", '{__name__="workerpool_workers"}')
    if not there:
        raise NoPoolError(
            f"{api.url} has no series workerpool_workers, which every pool exports: is it the Prometheus "
            "that scrapes the service? The guide on metrics says how a service serves them"
        )
    _check("job", jobs, there)
    series = f'{{__name__="workerpool_workers", {_matcher("job", jobs)}}}'
    _check("pool", pools, api.label_values("pool", series))


def _check(option: str, names: Sequence[str], there: Sequence[str]) -> None:
    unknown = [name for name in names if name not in there]
    if unknown:
        raise NoPoolError(f"--{option} {unknown[0]!r} is not there: pass one of {', '.join(there)}")


def _nothing_then(api: PrometheusApi, when: TimeRange, chosen: str) -> str:
    names = ", ".join(api.label_values("pool", f'{{__name__="workerpool_workers", {chosen}}}'))
    return (
        f"{api.url} has no sample of any pool from {moment(when.start)} to {moment(when.end)}, which is "
        f"not to say that nothing happened: it knows the pools {names} from another time; pass another "
        "--from and --to, or ask a Prometheus that keeps its data for longer"
    )


def _step(api: PrometheusApi, when: TimeRange, chosen: str) -> float:
    """Return the scrape interval, or as much more as keeps the answers small enough."""
    workers = f"workerpool_workers{{{chosen}}}"
    newest = api.query(
        f"max(max_over_time(timestamp({workers})[{duration(when.seconds)}:{duration(when.seconds / 100)}]))",
        when.end,
    )
    if not newest:
        return max(_DEFAULT_INTERVAL, ceil(when.seconds / MOST_POINTS))
    at = newest[0].points[0][1]
    gaps = [
        later - earlier
        for one in api.query(f"{workers}[{duration(_LOOKBACK)}]", at)
        for (earlier, _), (later, _) in pairwise(one.points)
    ]
    interval = median(gaps) if gaps else _DEFAULT_INTERVAL
    interval = round(interval) if interval >= 1 else round(interval, 1) or 0.1
    total = api.query(f'count({{__name__=~"workerpool_{_COUNTERS}", {chosen}}})', at)
    series = total[0].points[0][1] if total else 1
    most = min(MOST_POINTS, max(1, _MOST_POINTS_IN_ALL / series))
    return max(interval, ceil(when.seconds / most)) if when.seconds / interval > most else interval


def _read(api: PrometheusApi, when: TimeRange, step: float, expr: str) -> list[QueriedSeries]:
    found = api.query_range(expr, when.start, when.end, step)
    if when.seconds - step * int(when.seconds / step + _TINY) < _LEAST:
        return found
    # The last step ends before the range does.
    by_labels = {frozenset(one.labels.items()): one for one in found}
    for last in api.query(expr, when.end):
        by_labels.setdefault(frozenset(last.labels.items()), QueriedSeries(last.labels, [])).points.extend(
            last.points
        )
    return list(by_labels.values())


def _scrapes(found: Iterable[QueriedSeries], when: TimeRange) -> dict[InstanceKey, list[float]]:
    times: dict[InstanceKey, set[float]] = {}
    for one in found:
        times.setdefault(_instance(one), set()).update(at for _, at in one.points if at >= when.start)
    return {key: sorted(scraped) for key, scraped in times.items() if scraped}


def _by_instance(found: Iterable[QueriedSeries]) -> MetricPoints:
    points: MetricPoints = {}
    for one in found:
        name = one.labels["__name__"].removeprefix("workerpool_").removesuffix("_total")
        labels = tuple(one.labels.get(label, "") for label in _OWN.get(name, ()))
        metrics = points.setdefault(_instance(one), {})
        metrics[MetricKey(name, labels)] = _joined(metrics.get(MetricKey(name, labels), []), one.points)
    return points


def _joined(before: list[Point], more: list[Point]) -> list[Point]:
    """Return the points of two series that are one, such as those before and after a target's relabelling."""
    return sorted({**dict(before), **dict(more)}.items()) if before else more


def _process_starts(
    read: Callable[[str], list[QueriedSeries]], jobs: set[str]
) -> dict[tuple[str, str], list[Point]]:
    if not jobs:
        return {}
    found = read(f"process_start_time_seconds{{{_matcher('job', jobs)}}}")
    starts: dict[tuple[str, str], list[Point]] = {}
    for one in found:
        process = (one.labels.get("job", ""), one.labels.get("instance", ""))
        starts[process] = _joined(starts.get(process, []), one.points)
    return starts


def _is_ours(alert: QueriedSeries, pools: set[PoolKey]) -> bool:
    """Tell whether an alert is one of prodpool's rules, or one of somebody's own about these pools."""
    return alert.labels.get("component") == "workerpool" or _pool_of(alert) in pools


def _pool_of(one: QueriedSeries) -> PoolKey:
    return PoolKey(one.labels.get("job", ""), one.labels.get("pool", ""))


def _instance(one: QueriedSeries) -> InstanceKey:
    others = {key: value for key, value in one.labels.items() if key not in {*_PLACE, *_OF_METRICS}}
    job, pool, instance = (one.labels.get(label, "") for label in _PLACE)
    return InstanceKey(job, pool, instance, tuple(sorted(others.items())))


def _matcher(label: str, names: Iterable[str]) -> str:
    # Alike in a string of PromQL and in one of JSON.
    any_of = json.dumps("|".join(map(re.escape, sorted(names))), ensure_ascii=False)
    return f"{label}=~{any_of}" if any_of != '""' else f'{label}!=""'
