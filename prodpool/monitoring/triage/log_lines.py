"""Reading the events of pools out of a log, in whatever form it was written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from prodpool.config.log_levels import LOG_EVENTS

# What kubectl, a container's runtime or a terminal add to a line: [pod/web-1/app], times, colours.
_PREFIX = re.compile(r"^(?:\[pod/[^\]]+\] )?(?:\d{4}-\d\d-\d\dT\S+ (?:stdout|stderr) [FP] )?")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EVENT = re.compile(r"(?<![\w.])(?:pool|task|breaker)\.[a-z_]+(?![\w.])")
_FIELD = re.compile(r"""(?<![\w.])([a-z_]+)=("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;]+)""")
_LEVEL = re.compile(r"(?<![\w-])(debug|info|warn|warning|error|critical|fatal)(?![\w-])", re.IGNORECASE)
# Where the level of a JSON line may be, and its event.
_LEVELS = ("level", "levelname", "severity", "log.level", "log_level")
_EVENTS = ("event", "message", "msg")
_SYNONYMS = {"warn": "warning", "fatal": "critical"}
# Of events that have no level in their line.
_USUAL_LEVELS = {
    "task.panic": "error",
    "task.abandoned": "error",
    "task.callback_error": "error",
    "pool.backend_broken": "error",
}
_AT_INFO = {
    *("pool.created", "pool.draining", "pool.drain_progress", "pool.resized"),
    *("task.cancelled", "task.expected"),
}


def read_events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Return the fields of each event about a pool, with its ``event`` and ``level``.

    A stack may follow on lines of its own, which are indented.
    """
    event: dict[str, Any] | None = None
    stack: list[str] = []
    for line in lines:
        text = _PREFIX.sub("", line)
        if text[:1].isspace():
            stack.append(text)
            continue
        if event is not None:
            yield {"stack": "".join(stack), **event}
        event, stack = _fields(text), []
    if event is not None:
        yield {"stack": "".join(stack), **event}


def _fields(text: str) -> dict[str, Any] | None:
    found = _from_json(text)
    return _from_text(text) if found is None else found


def _from_json(text: str) -> dict[str, Any] | None:
    start = text.find("{")
    if start < 0:
        return None
    try:
        found = json.loads(text[start:])
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    if isinstance(found.get("log"), str):  # as docker's own files have it
        return _fields(found["log"])
    named = next((str(found[key]) for key in _EVENTS if _EVENT.fullmatch(str(found.get(key, "")))), None)
    if named is None:
        return None
    level = next((str(found[key]) for key in _LEVELS if isinstance(found.get(key), str)), "")
    return {**found, "event": named, "level": _level(level, named)}


def _from_text(text: str) -> dict[str, Any] | None:
    plain = _COLOURS.sub("", text)
    named = next((one[0] for one in _EVENT.finditer(plain) if one[0] in LOG_EVENTS), None)
    if named is None:
        return None
    fields: dict[str, Any] = {key: _unquoted(value) for key, value in _FIELD.findall(plain)}
    level = str(fields.get("level") or next(iter(_LEVEL.findall(plain.partition(named)[0])), ""))
    return {**fields, "event": named, "level": _level(level, named)}


def _level(text: str, event: str) -> str:
    level = text.strip().lower()
    usual = "info" if event in _AT_INFO else _USUAL_LEVELS.get(event, "warning")
    return _SYNONYMS.get(level, level) or usual


def _unquoted(value: str) -> str:
    if value[:1] in {'"', "'"}:
        return value[1:-1].replace("\\n", "\n").replace('\\"', '"').replace("\\'", "'")
    return value
