"""Which alert was pending or firing when, from the series that Prometheus writes of its own alerts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from prodpool.monitoring.postmortem.pool_history import PoolHistory, PoolKey
from prodpool.monitoring.postmortem.prometheus_api import QueriedSeries

AlertState = Literal["inactive", "pending", "firing"]
_Identity = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class AlertChange:
    """An alert that went from one state into another.

    Attributes:
        at: The unix time of the first step at which it was in the new state.
        since: If it was in that state at the first step already, since when its condition has held, if known.
        at_beginning: Whether it was in that state at the first step already.
        instance: Empty for an alert about all instances.
    """

    at: float
    name: str
    severity: str
    pool: PoolKey
    instance: str
    old: AlertState
    new: AlertState
    at_beginning: bool = False
    since: float | None = None


def alert_changes(history: PoolHistory) -> list[AlertChange]:
    """Return how the alerts changed, in order of time."""
    states: dict[_Identity, dict[float, AlertState]] = {}
    for one in history.alerts:
        states.setdefault(_identity(one), {}).update(_states(one))
    since = {_identity(one): one.points[0][1] for one in history.alerts_since}
    changes = [
        change
        for identity, by_time in states.items()
        for change in _changes(history, dict(identity), by_time, since.get(identity))
    ]
    return sorted(changes, key=lambda change: (change.at, change.name, change.pool, change.instance))


def last_changes(changes: Iterable[AlertChange]) -> list[AlertChange]:
    """Return the last change of each alert, which are in order of time."""
    last = {(one.name, one.severity, one.pool, one.instance): one for one in changes}
    return list(last.values())


def _states(one: QueriedSeries) -> Iterator[tuple[float, AlertState]]:
    state: AlertState = "firing" if one.labels.get("alertstate") == "firing" else "pending"
    # What writes 0 for an alert that has ended, rather than nothing, is understood as well.
    return ((round(at, 3), state) for at, value in one.points if value > 0)


def _changes(
    history: PoolHistory, labels: dict[str, str], states: dict[float, AlertState], since: float | None
) -> Iterator[AlertChange]:
    first = history.times[0]
    old: AlertState = "inactive"
    for at in history.times:
        new = states.get(at, "inactive")
        if new != old:
            yield AlertChange(
                at,
                labels.get("alertname", "?"),
                labels.get("severity", "without a severity"),
                PoolKey(labels.get("job", ""), labels.get("pool", "")),
                labels.get("instance", ""),
                old,
                new,
                at == first,
                since if at == first else None,
            )
        old = new


def _identity(one: QueriedSeries) -> _Identity:
    return frozenset(
        (key, value) for key, value in one.labels.items() if key not in {"__name__", "alertstate"}
    )
