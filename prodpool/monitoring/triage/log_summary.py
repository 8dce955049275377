"""What a service's log says of its pools, counted by event, pool and task: ``prodpool log``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prodpool.monitoring.triage.log_lines import read_events
from prodpool.monitoring.triage.stacks import WaitsFor, frames_of, table, what_it_waits_for

_SERIOUS = {"warning": 1, "error": 2, "critical": 3}
# Fields that say what was behind a line, in the order in which they are shown.
_TELLING = ("error", "error_message", "cause", "signal", "exit_status", "why", "drained")
# Of texts that differ in their numbers alone one row is made, and of long ones the beginning.
_NUMBER = re.compile(r"\d+|\b0x[0-9a-f]+\b")
_MOST = 80


@dataclass(frozen=True, slots=True)
class Line:
    """What lines of a log have in common that are counted together."""

    level: str
    event: str
    pool: str
    task: str
    what: str
    waits_for: WaitsFor | None = None


def summarise(lines: Iterable[str]) -> Counter[Line]:
    """Count the warnings and errors of pools; lines of lower levels are passed over."""
    counts: Counter[Line] = Counter()
    for fields in read_events(lines):
        if fields["level"] in _SERIOUS:
            # A line may speak for others that were left out, and a summary for those alone.
            counts[_line(fields)] += _left_out(fields) + (str(fields.get("summary", "")).lower() != "true")
    return counts


def log_table(lines: Iterable[str]) -> list[str]:
    """Return the lines of a table: errors first, and most lines first."""
    counts = summarise(lines)
    rows = [("lines", "level", "event", "pool", "task", "what")]
    rows += [
        (str(count), one.level, one.event, one.pool, one.task, one.what)
        for one, count in sorted(counts.items(), key=lambda each: (-_SERIOUS[each[0].level], -each[1]))
    ]
    return table(rows)


def _left_out(fields: Mapping[str, Any]) -> int:
    told = str(fields.get("suppressed", ""))
    return int(told) if told.isdecimal() else 0


def _line(fields: Mapping[str, Any]) -> Line:
    event, waits_for = fields["event"], None
    if event in {"task.still_running", "task.abandoned"}:
        wait = what_it_waits_for(frames_of(_text(fields, "stack")))
        waits_for = wait.what
        what = f"waits for {wait.what}" + (f" at {wait.where}" if wait.where else "")
    else:
        telling = ((name, _NUMBER.sub("N", _text(fields, name))) for name in _TELLING)
        what = " ".join(", ".join(f"{name}={text}" for name, text in telling if text).split())[:_MOST]
    return Line(fields["level"], event, _text(fields, "pool"), _text(fields, "task"), what, waits_for)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return str(value) if isinstance(value, str | int | float) else ""
