"""The submitters that wait for a slot, and how each is notified that it got one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, Protocol

from prodpool.scheduling.linked_queue import LinkedQueue
from prodpool.task.outcomes import Reason
from prodpool.task.task import Task
from prodpool.telemetry.counters import PoolCounters


class Notifiable(Protocol):
    """A waiter that is to be notified once the lock is released."""

    prev: Any
    next: Any

    def notify(self) -> None:
        """Wake it. Called without any lock held; never raises; a second time is harmless."""


class Waiter(Notifiable, Protocol):
    """A submitter that waits for a slot with its task in hand.

    The pool itself enqueues the task the moment a slot is free and then tells the waiter. Nothing is
    reserved in between, so a waiter that went away (timed out, cancelled, its event loop closed) has
    nothing to give back.
    """

    task: Task
    # None while it waits; True once admitted; False when the pool closed instead.
    admitted: bool | None


class ThreadWaiter:
    """A thread blocked in ``submit_wait``."""

    __slots__ = ("admitted", "next", "prev", "task", "_lock")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prev: Any = None
        self.next: Any = None
        self.admitted: bool | None = None
        self._lock = threading.Lock()
        self._lock.acquire()

    def notify(self) -> None:
        """Wake the thread."""
        with suppress(RuntimeError):  # notified already
            self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Block until notified; False after ``timeout`` seconds."""
        if timeout is None:
            return self._lock.acquire()
        return self._lock.acquire(timeout=min(max(timeout, 0.0), threading.TIMEOUT_MAX))


class AsyncWaiter:
    """A coroutine suspended in ``await submit_async(...)``; it holds no thread."""

    __slots__ = ("admitted", "future", "next", "prev", "task", "_loop")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prev: Any = None
        self.next: Any = None
        self.admitted: bool | None = None
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def notify(self) -> None:
        """Wake the coroutine, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._set_notified)
        except RuntimeError:
            # The loop is closed, so nothing will ever ask for this task: do not run it for nothing,
            # unless the recursion limit is too near to cancel it.
            with suppress(RecursionError):
                self.task.future.cancel()

    def _set_notified(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class IdleWaiter:
    """A thread or a coroutine that waits until nothing is queued or running; ``wake`` wakes it."""

    __slots__ = ("idle", "next", "prev", "_wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.prev: Any = None
        self.next: Any = None
        # Whether that was so, at one moment since it waits.
        self.idle = False
        self._wake = wake

    def notify(self) -> None:
        """Wake it."""
        with suppress(RuntimeError):  # its event loop is closed
            self._wake()


class WaitQueue(LinkedQueue[Waiter]):
    """The submitters that wait for a place, first come first served.

    The dispatcher's lock guards it; only `notify` is called without. A waiter that was admitted or rejected
    is in ``to_notify`` until it has been notified; so is one that waited for the pool to become idle.
    """

    __slots__ = ("to_notify", "_counters", "_lock", "_now", "_notifiers")

    def __init__(
        self, counters: PoolCounters, now: Callable[[], float], lock: AbstractContextManager[object]
    ) -> None:
        super().__init__()
        self.to_notify: LinkedQueue[Notifiable] = LinkedQueue()
        self._lock = lock
        self._counters = counters
        self._now = now
        # Idents of the threads that are notifying right now.
        self._notifiers: set[int] = set()

    def admit(self, queue: LinkedQueue[Task]) -> None:
        """Move the task of the first waiter to the end of ``queue``."""
        now, counters, to_notify = self._now(), self._counters, self.to_notify
        waiter = self.next
        if waiter is None:
            return
        task, waited_since = waiter.task, waiter.task.admitted_at
        submitted, queued, notifiable = counters.submitted + 1, queue.length + 1, to_notify.length + 1
        self.pop()
        # No call from here to the end of the move, as within `LinkedQueue.push`.
        last = task.prev = queue.last
        last.next = queue.last = task
        queue.length = queued
        counters.submitted = submitted
        task.admitted_at = now
        waiter.admitted = True
        last = waiter.prev = to_notify.last
        last.next = to_notify.last = waiter
        to_notify.length = notifiable
        counters.admission_wait.observe(now - waited_since)

    def remove(self, waiter: Waiter) -> bool:
        """Remove a waiter that waits no longer; False if it has been notified, or is about to be."""
        now = self._now()
        if waiter.admitted is not None or not self.discard(waiter):
            return False
        self._counters.admission_wait.observe(now - waiter.task.admitted_at)
        return True

    def reject_all(self) -> None:
        """Reject all waiters, since the pool is closed."""
        # Up to 3.11 to name a member of an enum is a call, and wants memory: not between the stores.
        dropped, to_notify, reason = self._counters.dropped, self.to_notify, Reason.CLOSED
        while (waiter := self.next) is not None:
            closed, notifiable = dropped[reason] + 1, to_notify.length + 1
            self.pop()
            # No call from here to the end of the move, likewise.
            waiter.admitted = False
            dropped[reason] = closed
            last = waiter.prev = to_notify.last
            last.next = to_notify.last = waiter
            to_notify.length = notifiable

    def notify(self) -> None:
        """Notify the waiters in ``to_notify``; call it, with no lock held, whenever that is not empty.

        To notify one may admit the next: one that cannot be notified cancels its task, which frees a place.
        The round that is under way notifies that, too; a long queue would else become a deep recursion.
        """
        me = threading.get_ident()
        if me in self._notifiers:
            return
        try:
            self._notifiers.add(me)
            # Notified before it is taken out: an interrupt in between means once more, not never.
            while (waiter := self.to_notify.first()) is not None:
                waiter.notify()
                with self._lock:
                    self.to_notify.discard(waiter)
        finally:
            self._notifiers.discard(me)
