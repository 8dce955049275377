"""The threads of one pool that call its observers: spans, log lines, and reports of what fails in these."""

from __future__ import annotations

import time

from prodpool.concurrency.call_queue import CallQueue


class TelemetrySinks:
    """Flushes, watches and closes the call queues of one pool, the reports about the others last."""

    def __init__(self, spans: CallQueue, lines: CallQueue, reports: CallQueue) -> None:
        self._queues = spans, lines, reports

    def flush(self, timeout: float) -> bool:
        """Wait until the observers were handed all there is by now; False after ``timeout`` seconds."""
        ends = time.monotonic() + timeout
        return all(queue.flush(max(0.0, ends - time.monotonic())) for queue in self._queues)

    def ensure_threads(self) -> None:
        """Start the thread of a queue that could not have one."""
        for queue in self._queues:
            queue.ensure_thread()

    def close(self, patience: float, longest: float) -> None:
        """Have the observers take what waits; one call may last ``patience`` seconds, all ``longest``."""
        began = time.monotonic()
        for queue in self._queues:
            passed = time.monotonic() - began
            queue.close(max(0.05, patience - passed), max(0.0, longest - passed))

    def discard(self) -> None:
        """Close the queues without waiting."""
        for queue in self._queues:
            queue.close(0.0)
