"""Numbers and times as PromQL and prose write them."""

from __future__ import annotations

from decimal import Decimal

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))


def decimal(number: float | Decimal) -> str:
    """Write a number without an exponent and without zeros that say nothing."""
    text = f"{Decimal(str(number)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Write a time as PromQL has it, in the largest unit that it is a whole number of: ``5m``, ``90s``.

    A time below a millisecond becomes one millisecond.
    """
    milliseconds = max(1, round(seconds * 1000))
    return next(f"{milliseconds // size}{unit}" for unit, size in _UNITS if milliseconds % size == 0)


def humanize(seconds: float) -> str:
    """Write a time for a reader: ``5 minutes``, ``1 hour``, ``1.5 seconds``."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = seconds / size
        if count >= 1 and count == int(count):
            return f"{int(count)} {unit}{'' if count == 1 else 's'}"
    return f"{decimal(round(seconds, 3))} second{'' if seconds == 1 else 's'}"


def elapsed(seconds: float) -> str:
    """Write how long something took, to the second: ``0 s``, ``5 min 45 s``, ``1 h 30 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count]
    return " ".join(parts) or "0 s"
