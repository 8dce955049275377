"""An event that a signal handler may wait on."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

# Seconds that a wait lasts in one go. A signal that comes just before it begins does not end it, and its
# handler would be called only when all of it is over.
LOOK_EVERY = 0.5


class SignalSafeEvent:
    """An event that is set once and stays set.

    ``threading.Event`` takes a lock in Python code; a signal handler on top of a frame that holds it
    would hang. Here every step is one atomic operation, and each waiter parks on a lock of its own.
    """

    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        self._open = False
        self._waiting: list[threading.Lock] = []

    def set(self) -> None:
        """Set the event: every wait returns, now and later."""
        self._open = True
        while self._waiting:
            # Released before it is taken off: a call that is interrupted in between does both once more,
            # and no thread is left waiting.
            with suppress(IndexError, RuntimeError):
                self._waiting[-1].release()
            with suppress(IndexError):
                self._waiting.pop()

    def _is_set(self) -> bool:
        return self._open

    def wait(self, timeout: float) -> bool:
        """Block until the event is set; False after ``timeout`` seconds."""
        if self._open:
            return True
        lock = threading.Lock()
        lock.acquire()
        self._waiting.append(lock)
        # Opened between the two lines above: `open` may have seen the list without this lock.
        if self._is_set():
            return True
        ends = time.monotonic() + timeout
        while not lock.acquire(timeout=max(0.0, min(ends - time.monotonic(), LOOK_EVERY))):
            if time.monotonic() >= ends:
                return False
        return True
