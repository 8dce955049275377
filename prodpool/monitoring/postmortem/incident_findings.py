"""What was found of an incident: its history, alerts, signs and events; and how it was noticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prodpool.monitoring.formatting import elapsed
from prodpool.monitoring.postmortem.alert_changes import AlertChange, alert_changes, last_changes
from prodpool.monitoring.postmortem.markdown_names import code, name_pools
from prodpool.monitoring.postmortem.pool_history import PoolHistory, PoolKey
from prodpool.monitoring.postmortem.pool_signs import SignSpell, sign_spells
from prodpool.monitoring.postmortem.timeline import TimelineEvent, time_of_day, timeline


@dataclass(frozen=True, slots=True)
class IncidentFindings:
    """What was found; alerts and events in order of time."""

    history: PoolHistory
    alerts: Sequence[AlertChange]
    signs: Sequence[SignSpell]
    events: Sequence[TimelineEvent]

    @property
    def pools(self) -> set[PoolKey]:
        """The pools that showed a sign of a problem, or had an alert."""
        return {sign.pool for sign in self.signs} | {change.pool for change in self.alerts}

    @property
    def begins(self) -> float | None:
        """The unix time of the first sign of a problem, if there is one."""
        alerts = [change.at for change in self.alerts if change.new != "inactive"]
        return min([sign.start for sign in self.signs] + alerts, default=None)

    @property
    def over(self) -> float | None:
        """The unix time at which the last sign and the last alert had ended; None if they had not."""
        ends = [sign.end for sign in self.signs]
        ends += [None if one.new != "inactive" else one.at for one in last_changes(self.alerts)]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) else None


def find(history: PoolHistory, budget: float) -> IncidentFindings:
    """Look for alerts and signs in a history; ``budget`` is the share of the tasks that may end badly."""
    alerts = alert_changes(history)
    signs = [sign for pool in history.pools for sign in sign_spells(history, pool, budget)]
    return IncidentFindings(history, alerts, signs, timeline(history, alerts, signs))


def detection(found: IncidentFindings) -> Iterator[str]:
    """Yield what is told of how the incident was noticed."""
    begins = found.begins
    if begins is None:
        nothing = "none in this time, neither an alert nor in the pools' own numbers"
        yield f"- First sign: {nothing if found.history.scrapes else 'not known, without data of the pools'}."
    else:
        yield f"- First sign: {time_of_day(begins)}, {_first_sign(found, begins)}."
        if begins < found.history.times[0] + 1.5 * found.history.step:
            yield "- **It had begun before this time:** pass an earlier `--from` to see when."
    fired = [change for change in found.alerts if change.new == "firing"]
    if fired:
        yield f"- First alert: {_fired(fired[0], begins, found)}."
        paging = [change for change in fired if change.severity == "critical"]
        if not paging:
            yield "- No critical alert fired, so that nobody was paged by the routes that prodpool exports."
        elif paging[0] is not fired[0]:
            yield f"- First critical alert: {_fired(paging[0], begins, found)}."
    else:
        yield from _no_alert(found)
    yield "- Who noticed first: an alert, a person or a customer?"


def _first_sign(found: IncidentFindings, begins: float) -> str:
    first: dict[str, list[PoolKey]] = {}
    for sign in found.signs:
        if sign.start == begins:
            first.setdefault(sign.begun, []).append(sign.pool)
    for change in found.alerts:
        if change.at == begins and not first:
            first.setdefault(f"{code(change.name)} is {change.new}", []).append(change.pool)
    return "; ".join(f"{text} ({name_pools(pools, found.history.pools)})" for text, pools in first.items())


def _fired(change: AlertChange, begins: float | None, found: IncidentFindings) -> str:
    after = "" if begins is None else f", {elapsed(change.at - begins)} after the first sign"
    already = " or earlier" if change.at_beginning else ""
    pool = name_pools([change.pool], found.history.pools)
    return f"{code(change.name)} ({change.severity}) of {pool}, at {time_of_day(change.at)}{already}{after}"


def _no_alert(found: IncidentFindings) -> Iterator[str]:
    if found.alerts:
        pending = ", ".join(dict.fromkeys(code(change.name) for change in found.alerts))
        yield f"- No alert fired; pending without firing: {pending}."
    else:
        yield (
            "- No alert fired or was pending. Prometheus has no `ALERTS` of these pools in this time: see "
            "whether it has the rules (`prodpool export alerts`)."
        )
    yield "- Which alert would have told of it?"
