"""Following the service's log file: the events an operator would see, repeated ones folded into one."""

from __future__ import annotations

import json
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Told on screen in other ways, or too long for a line.
_HIDDEN = ("event", "level", "timestamp", "pool", "stack", "exception", "trace_id", "span_id", "logger")
_NOTABLE = ("warning", "error", "critical")


@dataclass(slots=True)
class Line:
    """One event as shown: when last, what, how often in a row."""

    time: str
    event: str
    fields: str
    notable: bool
    times: int = 1


def _fields(record: dict[str, Any]) -> str:
    shown = ((key, value) for key, value in record.items() if key not in _HIDDEN)
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown
    )


class EventLog:
    """The tail of a file of JSON lines; used by one thread."""

    def __init__(self, path: Path, *, keep: int = 8) -> None:
        """Follow ``path`` from its beginning and remember the last ``keep`` lines."""
        self._path = path
        self._offset = 0
        self.lines: deque[Line] = deque(maxlen=keep)
        self.counts: Counter[str] = Counter()
        self.first: dict[str, tuple[int, dict[str, Any]]] = {}

    def read(self) -> None:
        """Take in what was written since; a line half written is left for the next time."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            chunk = file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        for raw in whole.splitlines():
            self._take(json.loads(raw))

    def _take(self, record: dict[str, Any]) -> None:
        event, time = str(record["event"]), str(record.get("timestamp", ""))[11:19]
        self.counts[event] += 1
        self.first.setdefault(event, (self.counts.total(), record))
        same = next((line for line in list(self.lines)[-3:] if line.event == event), None)
        if same is None:
            self.lines.append(Line(time, event, _fields(record), record.get("level") in _NOTABLE))
            return
        same.time, same.fields = time, _fields(record)
        same.times += 1
