"""A one-way gate that a signal handler may wait on."""

from __future__ import annotations

import threading


class Latch:
    """Closed until opened, then open for ever.

    ``threading.Event`` takes a lock in Python code; a signal handler on top of a frame that holds it
    would hang. Here every step is one atomic operation, and each waiter parks on a lock of its own.
    """

    __slots__ = ("_open", "_waiting")

    def __init__(self) -> None:
        self._open = False
        self._waiting: list[threading.Lock] = []

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._open = True
        while self._waiting:
            try:
                self._waiting.pop().release()
            except IndexError:  # another opener was quicker
                return

    def _is_open(self) -> bool:
        return self._open

    def wait(self, timeout: float) -> bool:
        """Block until the latch is open; False after ``timeout`` seconds."""
        if self._open:
            return True
        lock = threading.Lock()
        lock.acquire()
        self._waiting.append(lock)
        # Opened between the two lines above: `open` may have seen the list without this lock.
        if self._is_open():
            return True
        return lock.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))
