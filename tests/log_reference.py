"""What docs/reference/log-events.md says of each log event, to compare the lines of a test with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from prodpool import Reason
from tests.support import ROOT

PAGE = ROOT / "docs" / "reference" / "log-events.md"
# Fields that any line about a task may have, and the only ones of a line that stands for suppressed ones.
OF_A_TASK = frozenset({"trace_id", "span_id", "suppressed"})
SUMMARY = frozenset({"suppressed", "summary"})
# What a line has besides.
ALWAYS = frozenset({"event", "log_level", "pool"})


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One row of the table."""

    level: str
    required: frozenset[str]
    optional: frozenset[str]


@cache
def documented() -> Mapping[str, LogEvent]:
    """Return the rows of the table by the event's name."""
    rows = re.findall(
        r"^\| `([a-z_.]+)` \| (\w+(?:, \w+)*) \| [^|]+ \| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE
    )
    return {name: _row(name, level, fields) for name, level, fields in rows}


def _row(name: str, level: str, fields: str) -> LogEvent:
    always, _, sometimes = fields.partition(";")
    optional = frozenset(re.findall(r"`(\w+)`", sometimes))
    if name.startswith("task.") or "task" in optional:
        optional |= OF_A_TASK
    if "each reason" in fields:
        optional |= {reason.value for reason in Reason}
    return LogEvent(level, frozenset(re.findall(r"`(\w+)`", always)), optional)


def difference(entry: Mapping[str, object]) -> str | None:
    """Say in what a line differs from the page; None where it does not, or is the application's own."""
    name = str(entry["event"])
    if name.partition(".")[0] not in {"pool", "task", "breaker"}:
        return None
    event = documented().get(name)
    if event is None:
        return f"{name} is not in {PAGE.name}"
    fields = entry.keys() - ALWAYS
    if fields == SUMMARY:
        return None
    if entry["log_level"] not in event.level.split(", "):
        return f"{name} was written as {entry['log_level']}, and {PAGE.name} says {event.level}"
    missing, unknown = event.required - fields, fields - event.required - event.optional
    return f"{name} lacks {sorted(missing)} and has {sorted(unknown)}" if missing or unknown else None
