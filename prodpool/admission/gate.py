"""The line before the door: who waits for a slot, and how each is told that it got one."""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from prodpool.task import Task


class Waiter(Protocol):
    """A submitter that waits for a slot with its task in hand.

    The pool itself enqueues the task the moment a slot is free and then tells the waiter. Nothing is
    reserved in between, so a waiter that went away (timed out, cancelled, its event loop closed) has
    nothing to give back. ``queued`` is True while it stands in the line.
    """

    task: Task
    queued: bool
    # None while it waits; True once admitted; False when the pool closed instead.
    admitted: bool | None

    def tell(self) -> None:
        """Wake the submitter. Called without any lock held; never raises."""


class ThreadWaiter:
    """A thread blocked in ``submit_wait``."""

    __slots__ = ("admitted", "queued", "task", "_lock")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.queued = False
        self.admitted: bool | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def tell(self) -> None:
        """Wake the thread."""
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Block until told; False after ``timeout`` seconds."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))


class AsyncWaiter:
    """A coroutine suspended in ``await submit_async(...)``; it holds no thread."""

    __slots__ = ("admitted", "future", "queued", "task", "_loop")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.queued = False
        self.admitted: bool | None = None
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def tell(self) -> None:
        """Wake the coroutine, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._told)
        except RuntimeError:
            # The loop is closed and nobody will ever ask for this task: do not run it for nothing.
            self.task.future.cancel()

    def _told(self) -> None:
        if not self.future.done():
            self.future.set_result(None)
