"""The runbook's incident history, written from what replaying the incidents showed.

``incidents.json`` is made by ``make incidents``; no number of it is written into the template by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, TypedDict

from prodpool.monitoring.formatting import decimal, humanize
from prodpool.monitoring.triage.signs import linked

FINDINGS = "incidents.json"
# So many tasks waited in the account of the unbounded queue.
ACCOUNTED = 500_000


class Firing(TypedDict):
    """An alert, and the seconds from the incident's beginning until it fired.

    ``pool`` is None for an alert of a process as a whole.
    """

    alert: str
    severity: str
    pool: str | None
    after: float


class PoolSeen(TypedDict):
    """What one pool was seen to do; seconds from the incident's beginning, None for never."""

    workers: int
    capacity: int
    full_after: float | None
    busy_after: float | None
    most_queued: int
    oldest_queued: float
    finished_before: float
    finished_at_end: float
    refused: int


class Incident(TypedDict):
    """One incident as it was replayed; memory in megabytes. ``way``: the steps of the triage and its end."""

    cause: str
    firings: list[Firing]
    seconds: float
    way: list[str]
    memory_before: int
    memory_after: int
    source_backlog: int | None
    pools: dict[str, PoolSeen]


def findings() -> dict[str, Any]:
    """Return what was found when the incidents were last replayed."""
    found: dict[str, Any] = json.loads((files("prodpool.monitoring") / FINDINGS).read_text(encoding="utf-8"))
    return found


def history_values(found: Mapping[str, Any]) -> dict[str, str]:
    """Return what the template's history names, by name; ``found`` is what `findings` returns."""
    values = {"incident_conditions": _conditions(found), **_bare(found["bare"])}
    incidents: Mapping[str, Incident] = found["incidents"]
    for name, incident in incidents.items():
        values |= {
            f"{name}_alerts": "\n".join(_alerts(incident["firings"])),
            f"{name}_pools": "\n".join(_pools(incident)),
            f"{name}_verdict": _verdict(incident),
            f"{name}_memory": _memory(incident),
        }
        if incident["source_backlog"] is not None:
            values[f"{name}_backlog"] = f"{incident['source_backlog']:,}"
    values["incidents_table"] = "\n".join(_incidents_table(incidents))
    values["calm_cases_table"] = "\n".join(_calm_cases_table(found["calm_cases"]))
    return values


def _incidents_table(incidents: Mapping[str, Incident]) -> Iterator[str]:
    yield "| cause | first alert | first page | way through the triage |"
    yield "|---|---|---|---|"
    for incident in incidents.values():
        *steps, end = incident["way"]
        way = ", ".join([*steps, linked(end)])
        first, page = _first(incident["firings"]), _first(_pages(incident))
        yield f"| {incident['cause']} | {first} | {page} | {way} |"


def _calm_cases_table(cases: Mapping[str, Incident]) -> Iterator[str]:
    yield "| case | watched for | warnings and pages | information |"
    yield "|---|---|---|---|"
    for name, case in cases.items():
        severe = [one for one in case["firings"] if one["severity"] != "info"]
        info = [one for one in case["firings"] if one["severity"] == "info"]
        lasted = humanize(case["seconds"])
        yield f"| {name.replace('_', ' ')} | {lasted} | {_first(severe)} | {_first(info)} |"


def _first(firings: Sequence[Firing]) -> str:
    if not firings:
        return "none"
    return f"{linked(firings[0]['alert'])}, {clock(firings[0]['after'])}"


def _pages(incident: Incident) -> list[Firing]:
    return [one for one in incident["firings"] if one["severity"] == "critical"]


def _conditions(found: Mapping[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    lasted = sorted({one["seconds"] for one in found["incidents"].values()})
    spoken = " or ".join(map(humanize, lasted))
    return (
        f"That was on {found['date']}, side by side, for {spoken} each, with prodpool\n"
        f"{versions['prodpool']} on {machine['python']}, Prometheus {versions['Prometheus']} and "
        f"{machine['cores']} cores ({machine['system']}); rules as shipped, scraped and evaluated every "
        f"{humanize(found['interval'])}, to which the times below are exact. The\n"
        "day of calm before, which error budgets and PoolSlowdown look back on, was written into "
        "Prometheus's data at the rates of a calm minute. What takes longer to fire is not listed."
    )


def _bare(bare: Mapping[str, int]) -> dict[str, str]:
    each = bare["bytes"] / bare["queued"]
    return {
        "bare_queued": f"{bare['queued']:,}",
        "bare_megabytes": f"{bare['bytes'] / 1e6:.0f} MB",
        "bare_gigabytes": f"{each * ACCOUNTED / 1e9:.1f} GB",
    }


def _alerts(firings: Sequence[Firing]) -> Iterator[str]:
    yield "| after | alert | severity | pool |"
    yield "|---|---|---|---|"
    for one in firings:
        yield f"| {clock(one['after'])} | {linked(one['alert'])} | {one['severity']} | {_of(one)} |"


def _pools(incident: Incident) -> Iterator[str]:
    yield (
        "| pool | workers | places | all workers busy after | queue full after "
        "| finished per second: before, at the end | refused |"
    )
    yield "|---|---|---|---|---|---|---|"
    for name, pool in incident["pools"].items():
        cells = (
            f"`{name}`",
            f"{pool['workers']}",
            f"{pool['capacity']:,}",
            clock(pool["busy_after"]),
            clock(pool["full_after"]),
            f"{decimal(pool['finished_before'])}, {decimal(pool['finished_at_end'])}",
            f"{pool['refused']:,}",
        )
        yield f"| {' | '.join(cells)} |"


def _memory(incident: Incident) -> str:
    return f"{incident['memory_before']} MB before and {incident['memory_after']} MB at the end"


def _of(firing: Firing) -> str:
    return "the process" if firing["pool"] is None else f"`{firing['pool']}`"


def _verdict(incident: Incident) -> str:
    if not incident["firings"]:
        return f"No alert fires in {humanize(incident['seconds'])}."
    first = incident["firings"][0]
    paged = _pages(incident)
    told = (
        f"The first alert is {first['alert']} ({first['severity']}) of {_of(first)}, after "
        f"{clock(first['after'])}"
    )
    if not paged:
        return f"{told}. Nobody is paged: no critical alert fires in {humanize(incident['seconds'])}."
    return f"{told}; the first that pages somebody is {paged[0]['alert']}, after {clock(paged[0]['after'])}."


def clock(seconds: float | None) -> str:
    """Write a time for a reader in minutes and seconds; ``never`` for None."""
    if seconds is None:
        return "never"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
