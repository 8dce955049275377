"""What happened to pools, in order of time: alerts, breakers, restarts, sizes, stops, signs of a problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise

from prodpool.monitoring.formatting import elapsed
from prodpool.monitoring.postmortem.alert_changes import AlertChange, last_changes
from prodpool.monitoring.postmortem.markdown_names import code
from prodpool.monitoring.postmortem.pool_history import GAP, InstanceKey, MetricKey, PoolHistory, PoolKey
from prodpool.monitoring.postmortem.pool_signs import SignSpell
from prodpool.monitoring.postmortem.prometheus_api import Point
from prodpool.text import short_name

# Of one kind in one instance: what is more is counted, but for the first few and the last.
_MOST_ALIKE, _FIRST_ALIKE = 8, 4


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One thing that happened: when (unix time), what, to which pool, in which instance if not in all."""

    at: float
    text: str
    pool: PoolKey
    instance: str = ""
    kind: str = ""


def timeline(
    history: PoolHistory, alerts: Iterable[AlertChange], signs: Iterable[SignSpell]
) -> list[TimelineEvent]:
    """Return all events in order of time."""
    changes = list(alerts)
    events = [*map(_of_alert, changes), *(event for sign in signs for event in _of_sign(sign))]
    events += (
        TimelineEvent(history.range.end, f"{_alert(one)} still fires", one.pool, one.instance, "still")
        for one in last_changes(changes)
        if one.new == "firing"
    )
    for instance in history.scrapes:
        events += _few(_of_instance(history, instance))
    return sorted(
        events, key=lambda event: (event.at, event.kind != "sign", event.text, event.pool, event.instance)
    )


def time_of_day(at: float) -> str:
    """Write the time of a unix time, in UTC: ``14:05:00``."""
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S}"


def _alert(change: AlertChange) -> str:
    return f"{code(change.name)} ({short_name(change.severity)})"


def _of_alert(change: AlertChange) -> TimelineEvent:
    told = {"firing": "fires", "pending": "is pending"}.get(change.new)
    told = told or ("is resolved" if change.old == "firing" else "is pending no more, and has not fired")
    already = ""
    if change.at_beginning:
        since = "" if change.since is None else f"; its condition holds since {_date_and_time(change.since)}"
        already = f" already at the beginning{since}"
    return TimelineEvent(
        change.at, f"{_alert(change)} {told}{already}", change.pool, change.instance, "alert"
    )


def _of_sign(sign: SignSpell) -> Iterator[TimelineEvent]:
    if sign.is_told_apart:
        return
    yield TimelineEvent(sign.start, sign.begun, sign.pool, kind="sign")
    if sign.end is not None:
        yield TimelineEvent(sign.end, sign.over, sign.pool, kind="sign over")


def _of_instance(history: PoolHistory, instance: InstanceKey) -> Iterator[TimelineEvent]:
    def event(at: float, text: str, kind: str) -> TimelineEvent:
        return TimelineEvent(at, text, instance.of_pool, instance.instance, kind)

    gauges = history.gauges.get(instance, {})
    for name, told in (("workers", "workers"), ("queue_capacity", "queue_capacity")):
        for at, old, new in _changes(gauges.get(MetricKey(name, ()), [])):
            yield event(at, f"{told} {old:,g} -> {new:,g}", name)
    for at, old, new in _changes(gauges.get(MetricKey("stopped", ()), [])):
        if old < new:
            yield event(at, "the pool stops", "stop")
    for at, before, after in _breaker_changes(gauges):
        yield event(at, f"breaker {before} -> {after}", "breaker")
    for at, text in _deployments(history, instance, gauges):
        yield event(at, text, "deployment")
    for at, text in _scrapes(history, instance):
        yield event(at, text, "scrape")


def _changes(points: Sequence[Point]) -> Iterator[tuple[float, float, float]]:
    return ((at, old, new) for (_, old), (at, new) in pairwise(points) if old != new)


def _breaker_changes(gauges: dict[MetricKey, list[Point]]) -> Iterator[tuple[float, str, str]]:
    by_time: dict[float, dict[str, float]] = {}
    for key, points in gauges.items():
        if key.name == "breaker_state":
            for at, value in points:
                by_time.setdefault(at, {})[key.labels[0]] = value
    shown = [(at, _breaker_state(states)) for at, states in sorted(by_time.items())]
    return ((at, old, new) for (_, old), (at, new) in pairwise(shown) if old != new)


def _breaker_state(states: dict[str, float]) -> str:
    there = {state.replace("_", "-"): count for state, count in states.items() if count > 0}
    if sum(there.values()) > 1:  # several processes behind one instance
        return ", ".join(f"{count:g} {state}" for state, count in there.items())
    return next(iter(there), "unknown")


def _deployments(
    history: PoolHistory, instance: InstanceKey, gauges: dict[MetricKey, list[Point]]
) -> Iterator[tuple[float, str]]:
    """Yield when the process was started anew, and when it came back with another version or backend."""
    for _, _, started in _changes(history.process_starts.get((instance.job, instance.instance), [])):
        yield started, "the process was restarted"
    began = sorted(
        (at, f"prodpool {key.labels[1]} on {key.labels[0]}")
        for key, points in gauges.items()
        if key.name == "info"
        for at in _beginnings(points, history.step)
    )
    for (_, old), (at, new) in pairwise(began):
        if old != new:
            yield at, f"deployed: {new} (before: {old})"


def _beginnings(points: Sequence[Point], step: float) -> Iterator[float]:
    before = float("-inf")
    for at, _ in points:
        if at - before > 2 * step:
            yield at
        before = at


def _scrapes(history: PoolHistory, instance: InstanceKey) -> Iterator[tuple[float, str]]:
    times, longest = history.scrapes[instance], GAP * history.step
    if times[0] - history.range.start > longest:
        starts = history.process_starts.get((instance.job, instance.instance), [])
        started = f"; its process started at {_date_and_time(starts[0][1])}" if starts else ""
        yield times[0], f"scraped for the first time ({_version(history, instance)}{started})"
    for before, after in pairwise(times):
        if after - before > longest:
            yield before, f"not scraped for {elapsed(after - before)}, until {time_of_day(after)}"
    if history.has_ended(instance):
        yield times[-1], "scraped for the last time"


def _version(history: PoolHistory, instance: InstanceKey) -> str:
    keys = [key for key in history.gauges.get(instance, {}) if key.name == "info"]
    return f"prodpool {keys[0].labels[1]} on {keys[0].labels[0]}" if keys else "of an unknown version"


def _date_and_time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def _few(events: Iterable[TimelineEvent]) -> Iterator[TimelineEvent]:
    """Put one line in the place of many that are alike, such as those of a breaker that flaps."""
    for kind, group in groupby(events, key=lambda event: event.kind):
        alike = list(group)
        if len(alike) <= _MOST_ALIKE:
            yield from alike
            continue
        left_out = alike[_FIRST_ALIKE:-1]
        text = f"{len(left_out)} more changes of this kind ({kind}) until {time_of_day(left_out[-1].at)}"
        yield from alike[:_FIRST_ALIKE]
        yield TimelineEvent(left_out[0].at, text, left_out[0].pool, left_out[0].instance, kind)
        yield alike[-1]
