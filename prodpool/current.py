"""What a running task may ask about itself, and how anyone knows which worker this thread is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection

from prodpool.task import Task
from prodpool.worker import Worker


class CurrentTask:
    """What a running task may know of itself. Obtained from `current_task`."""

    __slots__ = ("_now", "_task", "pool")

    def __init__(self, task: Task, pool: str, now: Callable[[], float]) -> None:
        self._task = task
        self._now = now
        self.pool = pool

    @property
    def name(self) -> str:
        """The task's name in logs and spans."""
        return self._task.name

    @property
    def attempt(self) -> int:
        """Which run of this task it is, from 1."""
        return 1

    @property
    def remaining(self) -> float | None:
        """Seconds left of the task's deadline, never below 0; None without a deadline."""
        expires_at = self._task.expires_at
        return None if expires_at is None else max(0.0, expires_at - self._now())

    @property
    def cancelled(self) -> threading.Event:
        """An event that is set when the pool wants this task to end (its stop deadline has passed)."""
        task = self._task
        if task.token is None:
            task.token = threading.Event()
        if task.cancel_requested:
            task.token.set()
        return task.token


class Here(threading.local):
    """The worker that the calling thread is, if it is one."""

    worker: Worker | None = None


here = Here()


def inside(workers: Collection[Worker]) -> bool:
    """Tell whether the calling thread is one of ``workers``, whatever it runs on top of that."""
    worker = here.worker
    while worker is not None:
        if worker in workers:
            return True
        worker = worker.outer
    return False


def _after_fork() -> None:
    # Only the forking thread lives on, and whatever pool it worked for stayed in the parent.
    here.worker = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def current_task() -> CurrentTask | None:
    """Return the task that the calling thread runs, or None outside of any pool."""
    worker = here.worker
    if worker is None:
        return None
    tasks = worker.tasks()
    return CurrentTask(tasks[-1], worker.pool, worker.now) if tasks else None
