"""The runbook's postmortem template, filled with what Prometheus knows of an incident."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from itertools import groupby

from prodpool.monitoring.formatting import elapsed
from prodpool.monitoring.postmortem.incident_findings import IncidentFindings, detection, find
from prodpool.monitoring.postmortem.markdown_names import name_instances, name_pool, name_pools
from prodpool.monitoring.postmortem.pool_counts import count
from prodpool.monitoring.postmortem.pool_history import PoolKey, read_history
from prodpool.monitoring.postmortem.pool_size import pool_peaks, pool_sizes
from prodpool.monitoring.postmortem.prometheus_api import PrometheusApi
from prodpool.monitoring.postmortem.tables import impact_table, size_table
from prodpool.monitoring.postmortem.time_range import TimeRange, moment
from prodpool.monitoring.postmortem.timeline import time_of_day
from prodpool.monitoring.runbook import TEMPLATE
from prodpool.text import short_line
from prodpool.version import __version__

_BLOCK = re.compile(r"^## Postmortem template$.*?^```markdown\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.+)\n", re.MULTILINE)
# Lines of the template's timeline that are filled in: it begins, the alert fires.
_FILLED_IN = 2


def postmortem(
    api: PrometheusApi,
    when: TimeRange,
    *,
    pools: Sequence[str],
    jobs: Sequence[str],
    slo: float,
    now: datetime,
) -> str:
    """Return the postmortem as Markdown; ``slo`` is the share of the tasks that are to end well.

    Raises:
        NoPoolError: Prometheus has no pool at all, none of those named, or no sample in that time.
        PrometheusApiError: Prometheus cannot be asked, or refuses.
    """
    history = read_history(api, when, pools, jobs)
    found = find(history, 1 - slo)
    shown = [pool for pool in history.pools if pool.pool in pools or pool in found.pools] or history.pools
    counts = {pool: count(history, pool) for pool in shown}
    impact = impact_table(history, counts, pool_peaks(api, history), slo)
    size = size_table(history, {pool: pool_sizes(api, history, now.timestamp())[pool] for pool in shown})
    title, template = _template()
    sections: dict[str, Iterable[str]] = {
        **template,
        "Date and time": _date_and_time(api, found, now),
        "Impact": [
            *impact,
            "",
            *_remarks(found, shown),
            "- Customers affected: who, how many, what did they see?",
        ],
        "Detection": detection(found),
        "Timeline": [*_timeline(found), *template["Timeline"][_FILLED_IN:]],
        "Size then and now": size,
    }
    return (
        "\n\n".join([title, *(f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items())])
        + "\n"
    )


def _template() -> tuple[str, dict[str, list[str]]]:
    """Return the title and the lines of each section of the runbook's template."""
    page = (files("prodpool.monitoring") / TEMPLATE).read_text(encoding="utf-8")
    block = _BLOCK.search(page)
    title, *rest = _HEADING.split(block[1] if block else "")
    return title.strip(), {
        name: text.strip().splitlines() for name, text in zip(rest[::2], rest[1::2], strict=True)
    }


def _date_and_time(api: PrometheusApi, found: IncidentFindings, now: datetime) -> Iterator[str]:
    when = found.history.range
    start, end = moment(when.start).removesuffix(" UTC"), moment(when.end)
    same_day = start[: len("YYYY-MM-DD ")] == end[: len("YYYY-MM-DD ")]
    yield f"{start} to {end[len('YYYY-MM-DD ') :] if same_day else end} ({elapsed(when.seconds)})"
    yield ""
    yield f"- All times are UTC, and known to {found.history.step:g} s: so far apart are the points read."
    yield from (f"- {note}" for note in when.notes)
    yield (
        f"- Read from {api.url} at {moment(now.timestamp())} by prodpool {__version__}. What Prometheus "
        "cannot know is left as a question."
    )
    yield from (f"- **Prometheus warned:** {short_line(warning)}" for warning in api.warnings)


def _remarks(found: IncidentFindings, shown: Sequence[PoolKey]) -> Iterator[str]:
    history = found.history
    if found.begins is not None:
        over = found.over
        until = (
            "**not over at the end**"
            if over is None
            else f"{time_of_day(over)} ({elapsed(over - found.begins)})"
        )
        yield f"- Signs of a problem or alerts: from {time_of_day(found.begins)} to {until}."
    quiet = [pool for pool in history.pools if pool not in shown]
    if quiet:
        yield f"- Nothing seen of {name_pools(quiet, history.pools)}: no alert and no sign of a problem."
    for pool in shown:
        if not history.instances(pool):
            yield (
                f"- **No data of {name_pool(pool, history.pools)}:** Prometheus has no sample of it from "
                "this time. That is not to say that nothing happened."
            )
    ended = sorted({key.instance for key in history.scrapes if history.has_ended(key)})
    nothing = f", so a 0 proves nothing for {name_instances(ended)}, which ended" if ended else ""
    yield (
        "- Counted from one scrape to the next, not extrapolated. What a process counted after its last "
        f"scrape is in no number here{nothing}: the log events `pool.stopped` and `task.abandoned` have it."
    )


def _after(seconds: float) -> str:
    return f"T{'-' if seconds < 0 else '+'}{elapsed(abs(seconds)) if seconds else 0}"


def _timeline(found: IncidentFindings) -> Iterator[str]:
    begins = found.begins
    if begins is None:
        yield "- T+0 it begins: Prometheus shows no sign of when."
    day = f"{datetime.fromtimestamp(found.history.range.start, UTC):%Y-%m-%d} "
    for (at, text), alike in groupby(found.events, key=lambda event: (event.at, event.text)):
        group = list(alike)
        where = name_pools(dict.fromkeys(event.pool for event in group), found.history.pools)
        instances = list(dict.fromkeys(event.instance for event in group if event.instance))
        where += f" in {name_instances(instances)}" if instances else ""
        date = f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d} "
        after = "T+?" if begins is None else _after(at - begins)
        yield f"- {date if date != day else ''}{time_of_day(at)} ({after}) {text}: {where}"
        day = date
    if not found.events:
        yield "- Prometheus shows no alert, restart, deployment, stop or change of a size or a breaker."
