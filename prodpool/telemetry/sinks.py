"""The threads of one pool that call its observers: spans, log lines, and reports of what fails in these.

A circuit breaker of the application's, with a storage outside the process, is fed by such a thread as well.
"""

from __future__ import annotations

import time

from prodpool.admission.breaker.breaker import Breaker
from prodpool.admission.breaker.deferred import DeferredBreaker
from prodpool.concurrency.call_queue import CallQueue


class TelemetrySinks:
    """Flushes, watches and closes the call queues of one pool, the reports about the others last.

    What feeds the breaker comes first: it may have a change of state to log.
    """

    def __init__(
        self,
        spans: CallQueue,
        lines: CallQueue,
        reports: CallQueue,
        *,
        breaker: Breaker | None = None,
    ) -> None:
        self._lines = lines
        self._queues = spans, lines, reports
        self._breaker = breaker if isinstance(breaker, DeferredBreaker) else None

    def open(self) -> None:
        """Start the threads of the log and of the breaker."""
        self._lines.open()
        if self._breaker is not None:
            self._breaker.open()

    def flush(self, timeout: float) -> bool:
        """Wait until the observers were handed all there is by now; False after ``timeout`` seconds."""
        ends = time.monotonic() + timeout
        if self._breaker is not None and not self._breaker.flush(timeout):
            return False
        return all(queue.flush(max(0.0, ends - time.monotonic())) for queue in self._queues)

    def ensure_threads(self) -> None:
        """Start the thread of a queue that could not have one."""
        if self._breaker is not None:
            self._breaker.ensure_thread()
        for queue in self._queues:
            queue.ensure_thread()

    def close(self, patience: float, longest: float) -> None:
        """Have the observers take what waits; one call may last ``patience`` seconds, all ``longest``.

        The breaker's storage may take all of ``longest``: an outcome needs several calls of it.
        """
        began = time.monotonic()
        if self._breaker is not None:
            self._breaker.close(longest)
            longest, began = longest - (time.monotonic() - began), time.monotonic()
        for queue in self._queues:
            passed = time.monotonic() - began
            queue.close(max(0.05, patience - passed), max(0.0, longest - passed))

    def discard(self) -> None:
        """Close the queues without waiting."""
        if self._breaker is not None:
            self._breaker.close(0.0)
        for queue in self._queues:
            queue.close(0.0)
