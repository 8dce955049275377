"""Tasks that begin and end when the test says so, and that fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from prodpool import InstrumentedPool, PoolFullError
from tests.helpers.waiting import PATIENCE


class TaskError(Exception):
    """What a failing task raises in tests."""


class BlockingTask:
    """A task that runs until it is released: submit ``task``, or ``task, value`` to get the value back.

    One object may be submitted many times. For worker processes there is `tests.backends.conftest.FileTasks`.
    """

    def __init__(self) -> None:
        self._started = threading.Semaphore(0)
        self._released = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self._started.release()
        assert self._released.wait(PATIENCE), "the test never released the task"
        return value

    def wait_started(self, count: int = 1) -> None:
        """Wait until ``count`` more of them run."""
        for _ in range(count):
            assert self._started.acquire(timeout=PATIENCE), "the blocking task did not start"

    def release(self) -> None:
        """Let all of them end, now and later."""
        self._released.set()


def occupy(pool: InstrumentedPool, task: BlockingTask, workers: int) -> list[Future[Any]]:
    """Keep ``workers`` workers busy, and return once they are."""
    futures: list[Future[Any]] = [pool.submit_wait(task) for _ in range(workers)]
    task.wait_started(workers)
    return futures


def fill(pool: InstrumentedPool, fn: Callable[..., Any]) -> list[Future[Any]]:
    """Submit ``fn`` until the pool is full, whatever its overload policy."""
    view = pool.options(wait=0)
    futures: list[Future[Any]] = []
    try:
        while True:
            futures.append(view.submit(fn))
    except PoolFullError:
        return futures
