"""Starts the worker loops of one pool, as many as are asked for and can be had."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prodpool.concurrency.call_thread import CallThread
from prodpool.workers.base import Workers


class LoopStarter:
    """Starts worker loops; the first of them begins the pool.

    Args:
        begin: Begins the pool; harmless once that is done.
        call_thread: Starts loops where that may hang and the caller must not.
        may_hang: Whether a start may run the application's code: its pickling, its executor's ``submit``.
    """

    workers: Workers
    """Where the loops run; set once, before the first call."""

    def __init__(self, begin: Callable[[], None], call_thread: CallThread, *, may_hang: bool) -> None:
        self._begin = begin
        self._call_thread = call_thread
        self._may_hang = may_hang
        self._starting = False

    def start_one(self) -> bool:
        """Add one more worker; False when there are enough.

        Raises:
            RuntimeError: The backend takes no more work, or no thread can be started.
        """
        self._begin()
        return self.workers.start()

    def start(self, count: int) -> None:
        """Start ``count`` loops, or as many as the backend has threads for."""
        for _ in range(count):
            try:
                self.start_one()
            except RuntimeError:
                # None to be had; the loops that are there get to the waiting tasks in their turn.
                return

    def start_missing(self, count: int) -> None:
        """Start the loops for which tasks wait in vain; called by the watchdog, which must not be held up."""
        if not self._may_hang:
            self.start(count)
        elif count and not self._starting:
            self._starting = True
            self._call_thread.call_soon(partial(self._start_later, count))

    def _start_later(self, count: int) -> None:
        try:
            self.start(count)
        finally:
            self._starting = False
