"""The outcomes of the latest calls, and whether too many of them were bad."""

from __future__ import annotations

__all__ = ["OutcomeWindow"]

_FAILED = 1
_SLOW = 2


class OutcomeWindow:
    """A ring of the last ``size`` outcomes with running sums, so that adding one costs the same at any size.

    Threads: holds no lock; its owner does.
    """

    __slots__ = ("_at", "_count", "_failed", "_failure_rate", "_minimum", "_ring", "_slow", "_slow_call_rate")

    def __init__(
        self, size: int, *, minimum: int, failure_rate: float | None, slow_call_rate: float | None
    ) -> None:
        """Start empty; with fewer than ``minimum`` outcomes there is no verdict."""
        self._ring = bytearray(size)
        self._minimum = minimum
        self._failure_rate = failure_rate
        self._slow_call_rate = slow_call_rate
        self._at = self._count = self._failed = self._slow = 0

    def add(self, *, failed: bool, slow: bool) -> str | None:
        """Take in one outcome, forget the oldest, and return why to trip, or None."""
        ring, at = self._ring, self._at
        new = failed * _FAILED + slow * _SLOW
        old = ring[at]
        if new != old:  # cells not yet written are 0 and count for nothing, like a good call
            ring[at] = new
            self._failed += (new & _FAILED) - (old & _FAILED)
            self._slow += (new >> 1) - (old >> 1)
        at += 1
        self._at = at if at < len(ring) else 0
        if self._count < len(ring):
            self._count += 1
        return self._verdict() if self._failed or self._slow else None

    def _verdict(self) -> str | None:
        count = self._count
        if count < self._minimum:
            return None
        limit = self._failure_rate
        if limit is not None and self._failed / count >= limit:
            return f"{self._failed} of the last {count} calls failed (failure_rate={limit:g})"
        limit = self._slow_call_rate
        if limit is not None and self._slow / count >= limit:
            return f"{self._slow} of the last {count} calls were slow (slow_call_rate={limit:g})"
        return None

    def clear(self) -> None:
        """Forget every outcome."""
        self._ring = bytearray(len(self._ring))
        self._at = self._count = self._failed = self._slow = 0
