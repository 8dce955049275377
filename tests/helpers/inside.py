"""What looks inside a pool."""

from __future__ import annotations

import threading
from collections import deque

from prodpool import InstrumentedPool
from prodpool.scheduling.wait_queue import Waiter, WaitQueue
from prodpool.scheduling.worker import Worker
from tests.helpers.waiting import PATIENCE


class WatchedWaiters(WaitQueue):
    """The waiters of a pool, which says when one has come.

    From outside, a submitter that waits looks like one that has not come yet.
    """

    __slots__ = ("_came",)

    def __init__(self, pool: InstrumentedPool) -> None:
        dispatcher = pool._engine.dispatcher
        super().__init__(dispatcher.counters, pool._engine.now, dispatcher.lock)
        self._came = threading.Semaphore(0)
        with dispatcher.lock:
            assert not dispatcher.waiters.length
            dispatcher.waiters = self

    def push(self, item: Waiter) -> None:
        super().push(item)
        self._came.release()

    def wait(self, count: int = 1) -> None:
        """Wait until ``count`` more submitters wait."""
        for _ in range(count):
            assert self._came.acquire(timeout=PATIENCE), "no submitter came to wait"


class AheadWorker(Worker):
    """A worker that is given tasks ahead, of which it has not begun the last ``unbegun``."""

    def __init__(self) -> None:
        super().__init__("test", lambda: 0.0)
        self.ahead = deque()
        self.unbegun = 0

    def withdraw_ahead(self, *, sent: bool) -> int:  # noqa: ARG002
        """Return how many those are, once."""
        count, self.unbegun = self.unbegun, 0
        return count
