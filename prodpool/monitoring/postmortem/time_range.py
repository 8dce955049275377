"""From when to when: two times as an operator writes them, and how they are shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from prodpool.monitoring.formatting import SECONDS

_UNITS = {**SECONDS, "w": 604_800}
_RELATIVE = re.compile(r"(?:now)?-((?:\d+(?:\.\d+)?[smhdw])+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_WAY_OUT = "pass a time such as 2026-11-30T14:05:00Z, 2026-11-30T15:05+01:00, now, now-2h or -90m"


class TimeRangeError(ValueError):
    """Raised when a time cannot be read, or two of them make no range; the message names the way out."""


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Two unix times in whole seconds, and what has to be said of how they were read."""

    start: float
    end: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.end - self.start


def is_relative(text: str) -> bool:
    """Tell whether a text is a time before now, such as ``-2h``."""
    return _RELATIVE.fullmatch(text) is not None


def read_range(start: str, end: str, now: datetime) -> TimeRange:
    """Read ``--from`` and ``--to``; a time without a zone is one of UTC.

    Raises:
        TimeRangeError: One cannot be read, the first is not before the second, or it is in the future.
    """
    begins, ends, present = _read("--from", start, now), _read("--to", end, now), int(now.timestamp())
    if begins >= ends:
        raise TimeRangeError(
            f"--from {start} is {moment(begins)} and not before --to {end}, which is {moment(ends)}: pass an "
            "earlier --from or a later --to"
        )
    if begins >= present:
        raise TimeRangeError(
            f"--from {start} is {moment(begins)}, and it is {moment(present)} now: pass a time of the past"
        )
    notes = []
    if any(_lacks_zone(text) for text in (start, end)):
        notes.append("Times that were given without a zone were read as UTC.")
    if ends > present:
        notes.append(f"The end that was given, {moment(ends)}, is still to come: this is what was known.")
    return TimeRange(begins, min(ends, present), tuple(notes))


def moment(at: float) -> str:
    """Write a unix time with its date: ``2026-11-30 14:05:00 UTC``."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _read(option: str, text: str, now: datetime) -> int:
    if text == "now":
        return int(now.timestamp())
    relative = _RELATIVE.fullmatch(text)
    try:
        if relative is not None:
            seconds = sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(relative[1]))
            return int((now - timedelta(seconds=seconds)).timestamp())
        given = datetime.fromisoformat(text)
        return int((given.replace(tzinfo=UTC) if given.tzinfo is None else given).timestamp())
    except (ValueError, OverflowError):
        raise TimeRangeError(f"{option} {text!r} is not a time: {_WAY_OUT}") from None


def _lacks_zone(text: str) -> bool:
    return text != "now" and not is_relative(text) and datetime.fromisoformat(text).tzinfo is None
