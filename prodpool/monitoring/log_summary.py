"""What a service's log says of its pools, counted by event, pool and task: ``prodpool log``.

Lines are JSON, as ``JSONRenderer`` of structlog writes them, or have ``key=value`` in them, as its other
renderers and logging's formatters do. What is no event of a pool is passed over.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prodpool.monitoring.stacks import WaitsFor, frames_of, table, what_it_waits_for

_EVENT = re.compile(r"(?<![\w.])(?:pool|task|breaker)\.[a-z_]+(?![\w.])")
_FIELD = re.compile(r"""(?<![\w.])([a-z_]+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;]+)""")
_LEVEL = re.compile(r"\b(debug|info|warning|error|critical)\b", re.IGNORECASE)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SERIOUS = {"warning": 1, "error": 2, "critical": 3}
# Fields that say what was behind a line, in the order in which they are shown.
_TELLING = ("error", "error_message", "cause", "signal", "exit_status", "why", "drained")


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
    for fields in _events(lines):
        if str(fields.get("level", "")).lower() in _SERIOUS:
            # A summary says how many more lines there were.
            counts[_line(fields)] += int(fields.get("suppressed") or 0) + (not fields.get("summary"))
    return counts


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Return the fields of each event. A stack may follow on lines of its own, which are indented."""
    event: dict[str, Any] | None = None
    stack: list[str] = []
    for text in lines:
        if text[:1].isspace():
            stack.append(text)
            continue
        if event is not None:
            yield {"stack": "".join(stack), **event}
        event, stack = _fields(text), []
    if event is not None:
        yield {"stack": "".join(stack), **event}


def log_table(lines: Iterable[str]) -> list[str]:
    """Return the lines of a table: errors first, and most lines first."""
    counts = summarise(lines)
    rows = [("lines", "level", "event", "pool", "task", "what")]
    rows += [
        (str(count), one.level, one.event, one.pool, one.task, one.what)
        for one, count in sorted(counts.items(), key=lambda each: (-_SERIOUS[each[0].level], -each[1]))
    ]
    return table(rows)


def _line(fields: Mapping[str, Any]) -> Line:
    what = ", ".join(f"{name}={fields[name]}" for name in _TELLING if fields.get(name) not in {None, ""})
    event, waits_for = str(fields["event"]), None
    if event in {"task.still_running", "task.abandoned"}:
        wait = what_it_waits_for(frames_of(str(fields.get("stack", ""))))
        waits_for = wait.what
        what = f"waits for {wait.what}" + (f" at {wait.where}" if wait.where else "")
    return Line(
        str(fields["level"]).lower(), event, str(fields.get("pool", "")), str(fields.get("task", "")), what,
        waits_for,
    )  # fmt: skip


def _fields(text: str) -> dict[str, Any] | None:
    """Return the fields of a line about a pool; None for any other line."""
    start = text.find("{")
    if start >= 0:
        try:
            found = json.loads(text[start:])
        except ValueError:
            found = None
        if isinstance(found, dict):
            event = found.get("event") or found.get("message") or found.get("msg") or ""
            level = found.get("level") or found.get("levelname") or ""
            return {**found, "event": event, "level": level} if _EVENT.fullmatch(str(event)) else None
    plain = _COLOURS.sub("", text)
    named = _EVENT.search(plain)
    if named is None:
        return None
    level = _LEVEL.search(plain)
    fields: dict[str, Any] = {key: _unquoted(value) for key, value in _FIELD.findall(plain)}
    return {"level": level[1] if level else "", **fields, "event": named[0]}


def _unquoted(value: str) -> str:
    if value[:1] in {'"', "'"}:
        return value[1:-1].replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'")
    return value
