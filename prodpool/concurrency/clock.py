"""Where a pool reads the time; tests put a clock there that they move themselves."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """Anything that tells seconds which never run backwards."""

    def monotonic(self) -> float:
        """Return the seconds since some fixed moment."""
        ...


class SystemClock:
    """The machine's monotonic clock; a step of the wall clock does not move it."""

    monotonic = staticmethod(time.monotonic)


class ManualClock:
    """A clock that stands still until a test advances it.

    Threads: safe from any thread.
    """

    def __init__(self, start: float = 0.0) -> None:
        """Stand at ``start`` seconds."""
        self._now = start  # guarded by _lock for writing
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        """Show where the clock stands."""
        return f"ManualClock({self._now!r})"

    def monotonic(self) -> float:
        """Return the seconds this clock stands at."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Move on by ``seconds`` and return the new time.

        Raises:
            ValueError: ``seconds`` is negative; monotonic time does not run backwards.
        """
        if seconds < 0:
            raise ValueError(f"seconds={seconds!r}: a monotonic clock cannot go back; pass 0 or more")
        with self._lock:
            self._now += seconds
            return self._now
