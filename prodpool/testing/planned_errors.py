"""Errors that a `RecordingPool` was told to raise, as a pool would make them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

from prodpool.config.settings import check_count, check_seconds
from prodpool.errors import (
    BreakerOpenError,
    PoolBrokenError,
    PoolClosedError,
    PoolForkedError,
    PoolFullError,
    TaskExpiredError,
    TaskTimeoutError,
    WorkerLostError,
)
from prodpool.task.task import Task
from prodpool.text import shown

# Waiting places of the pool that a refusal tells of: as many as InstrumentedPool gives one worker.
QUEUE_CAPACITY = 2

# Each is called with the pool's name, the task, and the seconds after which a retry is likely to succeed.
_Maker = Callable[[str, Task, float | None], BaseException]

REFUSALS: dict[type[BaseException], _Maker] = {
    PoolFullError: lambda pool, _, retry_after: PoolFullError(
        pool=pool, queued=QUEUE_CAPACITY, queue_capacity=QUEUE_CAPACITY, retry_after=retry_after
    ),
    PoolClosedError: lambda pool, _, retry_after: PoolClosedError(pool=pool, retry_after=retry_after),
    PoolBrokenError: lambda pool, _, __: PoolBrokenError(pool=pool, cause=BrokenExecutor("a test says so")),
    PoolForkedError: lambda pool, _, __: PoolForkedError(pool=pool),
    BreakerOpenError: lambda pool, _, retry_after: BreakerOpenError(pool=pool, retry_after=retry_after),
    # Raised by a submit that waits for a slot longer than the task itself may wait.
    TaskExpiredError: lambda pool, task, retry_after: TaskExpiredError(
        pool=pool,
        task=task.name,
        deadline=task.options.deadline or 0.0,
        dwell=task.options.deadline or 0.0,
        retry_after=retry_after,
    ),
}
FAILURES: dict[type[BaseException], _Maker] = {
    TaskExpiredError: REFUSALS[TaskExpiredError],
    TaskTimeoutError: lambda pool, task, retry_after: TaskTimeoutError(
        pool=pool, task=task.name, timeout=task.options.timeout or 0.0, retry_after=retry_after
    ),
    WorkerLostError: lambda pool, task, retry_after: WorkerLostError(
        pool=pool, task=task.name, detail="a test says so", retry_after=retry_after
    ),
}


class PlannedErrors:
    """The errors of one kind that are still to be raised, first come first served.

    Args:
        makers: What can be made of its class alone.
    """

    def __init__(self, makers: dict[type[BaseException], _Maker]) -> None:
        self._makers = makers
        self._planned: deque[tuple[_Maker, float | None, float]] = deque()

    def add(self, error: Any, *, times: int | None, retry_after: float | None) -> None:
        """Plan ``error``, an exception or its class, for so many calls; None for all from then on.

        Raises:
            TypeError: It is no exception, or cannot be made from its class.
            ValueError: ``retry_after`` is given for an exception that is there already.
        """
        count = math.inf if times is None else check_count("times", times, least=1)
        if retry_after is not None:
            check_seconds("retry_after", retry_after)
        if isinstance(error, BaseException):
            if retry_after is not None:
                raise ValueError(
                    f"retry_after={retry_after!r} is for an error that is given as a class: "
                    f"{shown(error)} is raised as it is"
                )
            self._planned.append((lambda *_: error, None, count))
        elif isinstance(error, type) and error in self._makers:
            self._planned.append((self._makers[error], retry_after, count))
        else:
            known = ", ".join(sorted(kind.__name__ for kind in self._makers))
            raise TypeError(f"error={shown(error)} must be one of the classes {known}, or an exception")

    def clear(self) -> None:
        """Plan none."""
        self._planned.clear()

    def next(self, pool: str, task: Task) -> BaseException | None:
        """Return the error for a task of the pool of this name; None if there is none for it."""
        if not self._planned:
            return None
        make, retry_after, count = self._planned.popleft()
        if count > 1:
            self._planned.appendleft((make, retry_after, count - 1))
        return make(pool, task, retry_after)
