"""Done-callbacks of tasks that were dropped or abandoned, called by threads that no task waits for.

A callback is the application's own and may hang, or may want a lock that is held by the very frame on top of
which a signal handler called `stop`. The drain, its deadline and the watchdog must not wait for it.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable

from prodpool.concurrency.call_queue import CallQueue, QueuedCalls
from prodpool.concurrency.signal_safe_event import SignalSafeEvent

# Seconds for which a call may last before another thread is started for those that wait behind it.
STUCK_AFTER = 0.2
# So many threads of one pool may hang in calls; then the others have to wait.
MOST_THREADS = 8


class CallThread:
    """Makes calls in daemon threads: in one while all goes well, in another when that one hangs.

    The queue has no bound: whatever waits for a task in asyncio is told by such a call.

    Args:
        name: The name of the threads.
        failed: Called with what a call raised.
    """

    def __init__(self, name: str, failed: Callable[[BaseException], None]) -> None:
        self._name = name
        self._failed = failed
        self._calls: QueuedCalls = queue.SimpleQueue()
        self._thread = self._another()
        # Those that hung when they were last looked at.
        self._hung: list[CallQueue] = []

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have ``call`` made. Never blocks and never raises."""
        self._thread.post(call)

    def ensure_thread(self) -> None:
        """Start another thread if calls wait and all that there are hang. For the watchdog and `finish`."""
        if self._calls.empty():
            return
        self._hung = [each for each in self._hung if each.busy_for() >= STUCK_AFTER]
        if self._thread.busy_for() >= STUCK_AFTER and len(self._hung) + 1 < MOST_THREADS:
            self._hung.append(self._thread)
            self._thread = self._another()
        self._thread.ensure_thread()

    def close(self, timeout: float) -> None:
        """Wait until every call is made or hangs, ``timeout`` seconds at most."""
        if self._calls.empty() and not any(each.busy_for() for each in (self._thread, *self._hung)):
            return
        ends, done = time.monotonic() + timeout, SignalSafeEvent()
        self.call_soon(done.set)
        while not done.wait(min(STUCK_AFTER, left := max(0.0, ends - time.monotonic()))) and left:
            self.ensure_thread()

    def _another(self) -> CallQueue:
        return CallQueue(
            self._name, capacity=sys.maxsize, failed=self._failed, lost=self._lose, calls=self._calls
        )

    def _lose(self) -> None:
        self._failed(MemoryError("there was no memory for a call that was due"))
