"""The thread that runs tasks of a `RecordingPool`, as a worker, and how it makes a call."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from prodpool.execution.current_task import thread_state
from prodpool.execution.settlement import sanitized
from prodpool.scheduling.worker import Worker
from prodpool.task.coroutines import coroutine_refusal
from prodpool.task.task import Task


class RecordingWorker(Worker):
    """Stands for a thread that runs tasks of a `RecordingPool`."""

    __slots__ = ("submitted",)

    def __init__(self, pool: str, now: Callable[[], float]) -> None:
        super().__init__(pool, now)
        # What its tasks have submitted, to be run when they have ended.
        self.submitted: deque[Task] = deque()
        self.replaced = thread_state.worker
        self.ident = threading.get_ident()


def call(task: Task) -> tuple[Any, BaseException | None]:
    """Make a task's call; return its result, or what it raised as a future may hold it."""
    try:
        value = task.context.run(task.fn, *task.args, **task.kwargs)
    except BaseException as error:  # noqa: BLE001  # as in a worker
        return None, sanitized(error)
    if type(value) is CoroutineType:
        return None, coroutine_refusal(task.fn, value)
    return value, None
