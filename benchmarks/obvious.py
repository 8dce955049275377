"""The obvious wrapper, as most services write it: a closure per task, metrics objects, a semaphore."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ObviousWrapper(Executor):
    """Counts, times and bounds what it passes on to a ``ThreadPoolExecutor``, task by task."""

    def __init__(self, workers: int, capacity: int) -> None:
        self._backend = ThreadPoolExecutor(workers)
        self._slots = threading.BoundedSemaphore(workers + capacity)
        registry = CollectorRegistry()
        self._submitted = Counter("submitted", "Admitted.", ["pool"], registry=registry)
        self._completed = Counter("completed", "Finished.", ["pool", "result"], registry=registry)
        self._dropped = Counter("dropped", "Refused.", ["pool", "reason"], registry=registry)
        self._queued = Gauge("queued", "Waiting.", ["pool"], registry=registry)
        self._running = Gauge("running", "Running.", ["pool"], registry=registry)
        self._dwell = Histogram("dwell_seconds", "Time queued.", ["pool"], registry=registry)
        self._duration = Histogram("duration_seconds", "Time running.", ["pool"], registry=registry)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Hand ``fn`` to the backend inside a closure that measures it."""
        if not self._slots.acquire(blocking=False):
            self._dropped.labels("obvious", "full").inc()
            raise RuntimeError("full")
        self._submitted.labels("obvious").inc()
        self._queued.labels("obvious").inc()
        admitted = time.perf_counter()

        def measured() -> Any:
            started = time.perf_counter()
            self._queued.labels("obvious").dec()
            self._running.labels("obvious").inc()
            self._dwell.labels("obvious").observe(started - admitted)
            result = "error"
            try:
                value = fn(*args, **kwargs)
                result = "ok"
            finally:
                self._duration.labels("obvious").observe(time.perf_counter() - started)
                self._running.labels("obvious").dec()
                self._completed.labels("obvious", result).inc()
                self._slots.release()
            return value

        return self._backend.submit(measured)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the backend down."""
        self._backend.shutdown(wait, cancel_futures=cancel_futures)
