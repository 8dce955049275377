"""What a running task may ask about itself, and which worker the calling thread is."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection

from prodpool.concurrency import fork_hooks
from prodpool.scheduling.worker import Worker
from prodpool.task.cancellation import CancelToken
from prodpool.task.task import Task


class CurrentTask:
    """What a running task may know of itself. Obtained from `current_task`."""

    __slots__ = ("_began_at", "_now", "_task", "pool")

    def __init__(self, task: Task, pool: str, began_at: float, now: Callable[[], float]) -> None:
        self._task = task
        self._began_at = began_at
        self._now = now
        self.pool = pool

    @property
    def name(self) -> str:
        """The task's name in logs and spans."""
        return self._task.name

    @property
    def attempt(self) -> int:
        """Which run of this task it is, from 1; more only for one submitted as idempotent."""
        return self._task.attempt

    @property
    def remaining(self) -> float | None:
        """Seconds left of the task's deadline, never below 0; None without a deadline."""
        expires_at = self._task.expires_at
        return None if expires_at is None else max(0.0, expires_at - self._now())

    @property
    def cancelled(self) -> threading.Event:
        """An event that is set when this task should end.

        That is when the pool's stop deadline has passed, or the task's own run-time limit, or when its
        future was cancelled, as by a coroutine that waits for it no longer. Over dask, and other
        executors whose workers are not in this process, a task learns of its run-time limit alone.
        """
        task = self._task
        if task.cancel_token is None:
            task.cancel_token = CancelToken(self._left)
        if task.cancel_requested:
            task.cancel_token.set()
        return task.cancel_token

    def _left(self) -> float:
        """Return the seconds until its run-time limit; 0 once it is asked to end."""
        if self._task.cancel_requested:
            return 0.0
        timeout = self._task.options.timeout
        return math.inf if timeout is None else self._began_at + timeout - self._now()


class ThreadState(threading.local):
    """The worker that the calling thread is, if it is one."""

    worker: Worker | None = None
    # The workers whose tasks this thread settles, which run elsewhere.
    settles_for: Collection[Worker] | None = None
    # Whether it is just submitting a loop to a backend, or handing a task over to one.
    submitting: bool = False
    handing_over: bool = False
    # Whether it is counted among the worker threads that a pool has started.
    counted: bool = False
    # In a worker process: makes what its task may know of itself.
    remote: Callable[[], CurrentTask] | None = None
    # The task of the call that a backend of unknown kind makes in this thread.
    local_task: Task | None = None


thread_state = ThreadState()


def is_inside(workers: Collection[Worker]) -> bool:
    """Tell whether the calling thread is one of ``workers`` or settles for them.

    Whatever it runs on top of that: while it waits for one of them, they wait for it.
    """
    if thread_state.settles_for is workers:
        return True
    worker = thread_state.worker
    while worker is not None:
        if worker in workers:
            return True
        worker = worker.replaced
    return False


def _after_fork() -> None:
    # Only the forking thread lives on, and whatever pool it worked for stayed in the parent.
    thread_state.worker = thread_state.settles_for = None
    thread_state.submitting = thread_state.handing_over = False
    thread_state.remote = thread_state.local_task = None


fork_hooks.register(_after_fork)


def current_task() -> CurrentTask | None:
    """Return the task that the calling thread runs, or None outside of any pool."""
    worker = thread_state.worker
    if worker is None:
        return None if thread_state.remote is None else thread_state.remote()
    tasks = worker.tasks()
    local = thread_state.local_task
    if local is not None and local not in tasks:
        # Its future has failed, and the worker has been given another task meanwhile.
        return CurrentTask(local, worker.pool, worker.now(), worker.now)
    if not tasks:
        return None
    task = tasks[-1]
    began_at = worker.started if task.began_at is None else task.began_at
    return CurrentTask(task, worker.pool, worker.now() if began_at is None else began_at, worker.now)
