"""Futures of a pool for CPython's future tests, which make the stdlib's own and set their results.

Each of these futures has a pool to itself, paused until the test sets an outcome; then the task has it.
"""

from __future__ import annotations

import threading
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import Any

from prodpool import PoolFuture
from tests.cpython import wrapped


class Drivers:
    """Makes futures in any state, and winds their pools up afterwards."""

    def __init__(self) -> None:
        self._pools: list[wrapped.ThreadPoolExecutor] = []
        self._over = threading.Event()

    def pending(self) -> PoolFuture[Any]:
        """Return a future whose task waits, with setters that make the task end so."""
        pool = self._pool()
        pool.pause()
        outcome: list[Any] = []
        future: Any = pool.submit(_end_as, outcome)

        def settle(value: Any) -> None:
            outcome.append(value)
            pool.resume()
            # Returns when the callbacks have run, as the stdlib's setters do.
            pool.shutdown()

        future.set_result = settle
        future.set_exception = settle
        made: PoolFuture[Any] = future
        return made

    def create(self, state: str = PENDING, exception: Any = None, result: Any = None) -> PoolFuture[Any]:
        """Return a future in ``state``; the suite's ``create_future``."""
        if state == RUNNING:
            pool, began = self._pool(), threading.Event()
            running: PoolFuture[Any] = pool.submit(self._run_on, began)
            began.wait()
            return running
        future = self.pending()
        if state in {CANCELLED, CANCELLED_AND_NOTIFIED}:
            future.cancel()
        elif state == FINISHED:
            future.set_result(result if exception is None else exception)
        return future

    def close(self) -> None:
        """Let every task end."""
        self._over.set()
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)
            pool.close_metrics()

    def names(self) -> dict[str, Any]:
        """Return what the suite's modules are to find under these names."""
        return {
            "Future": self.pending,
            "create_future": self.create,
            "PENDING_FUTURE": self.create(PENDING),
            "RUNNING_FUTURE": self.create(RUNNING),
            "CANCELLED_FUTURE": self.create(CANCELLED),
            "CANCELLED_AND_NOTIFIED_FUTURE": self.create(CANCELLED_AND_NOTIFIED),
            "EXCEPTION_FUTURE": self.create(FINISHED, exception=OSError()),
            "SUCCESSFUL_FUTURE": self.create(FINISHED, result=42),
        }

    def _run_on(self, began: threading.Event) -> None:
        began.set()
        self._over.wait()

    def _pool(self) -> wrapped.ThreadPoolExecutor:
        pool = wrapped.ThreadPoolExecutor(1)
        self._pools.append(pool)
        return pool


def _end_as(outcome: list[Any]) -> Any:
    (value,) = outcome
    if isinstance(value, BaseException):
        raise value
    return value
