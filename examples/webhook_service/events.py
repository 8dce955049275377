"""Following the service's log file: what an operator would see of it, one line per event."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Told on screen in other ways, or too long for a line.
_HIDDEN = ("event", "level", "timestamp", "pool", "stack", "exception", "trace_id", "span_id", "logger")
_NOTABLE = ("warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Line:
    """One event as shown: when last, what, how often so far."""

    stamp: str
    event: str
    fields: str
    notable: bool
    times: int

    @property
    def time(self) -> str:
        """Hours, minutes and seconds."""
        return self.stamp[11:19]


def _fields(record: dict[str, Any]) -> str:
    shown = ((key, value) for key, value in record.items() if key not in _HIDDEN)
    return " ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}" for key, value in shown
    )


class EventLog:
    """The tail of a file of JSON lines; used by one thread."""

    def __init__(self, path: Path) -> None:
        """Follow ``path`` from its beginning."""
        self._path = path
        self._offset = 0
        self._last: dict[str, Line] = {}
        self.counts: Counter[str] = Counter()
        self.first: dict[str, tuple[int, dict[str, Any]]] = {}

    @property
    def lines(self) -> list[Line]:
        """The last line of each event, newest last."""
        return sorted(self._last.values(), key=lambda line: line.stamp)

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
        event = str(record["event"])
        self.counts[event] += 1
        self.first.setdefault(event, (self.counts.total(), record))
        # Without the Z, a whole second sorts before its fractions.
        stamp = str(record.get("timestamp", "")).removesuffix("Z")
        notable = record.get("level") in _NOTABLE
        self._last[event] = Line(stamp, event, _fields(record), notable, self.counts[event])
