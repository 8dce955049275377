"""One daemon thread for all pools of the process, and what it is woken for.

It must never be held up: it calls no log, no span processor, no done-callback. Those are left to threads
that may hang (`prodpool.concurrency.call_queue`, `prodpool.concurrency.call_thread`).

It ends when the last pool is gone, so that a process without pools has no thread of ours.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from prodpool.concurrency import fork_hooks
from prodpool.concurrency.interrupts import start_thread

THREAD_NAME = "prodpool-watchdog"
# Seconds after a failed allocation: it may be a while until there is memory again.
RETRY_DELAY = 0.01


class Periodic(Protocol):
    """Something that the watchdog's thread calls at intervals."""

    interval: float

    def tick(self) -> None:
        """Do one round. Never raises."""


class Wake(NamedTuple):
    """One wake of the thread at the time for which it had asked. ``delay``: seconds by which it was late."""

    delay: float


class BackgroundThread:
    """Calls ``tick`` of everything it watches, each at its own interval of real seconds."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Guarded by _lock: who is watched and when it is due (seconds of time.monotonic).
        self._due: dict[Periodic, float] = {}
        self._thread: threading.Thread | None = None
        # SimpleQueue is reentrant: `call_soon` may be called from a finalizer or a signal handler.
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # The newest wake at a due time, an object of its own each time. Whoever has seen it has seen the
        # newest sample. None: there was none yet.
        self.last_wake: Wake | None = None

    def add_periodic(self, watched: Periodic) -> None:
        """Begin to tick ``watched``.

        Raises:
            RuntimeError: The system has no thread to give; nothing has changed.
        """
        with self._lock:
            self._due[watched] = time.monotonic() + watched.interval
            if self._thread is not None:
                self._calls.put(None)
                return
            thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            try:
                start_thread(thread)
            except BaseException:
                # After Ctrl-C it may come up all the same; it says so itself then. A signal handler on top of
                # the start may have been here before.
                self._due.pop(watched, None)
                raise
            self._thread = thread

    def remove_periodic(self, watched: Periodic) -> None:
        """Stop ticking ``watched``; the thread ends with the last one."""
        with self._lock:
            self._due.pop(watched, None)
        self._calls.put(None)

    def call_soon(self, call: Callable[[], object]) -> bool:
        """Have ``call`` made by the watchdog's thread; it must never block and must not raise.

        False where there is no thread: then there is no pool left that the call could be about, and it would
        wait here for the next one with all that it holds. It takes no lock: a finalizer may call it anywhere.
        """
        if self._thread is None:
            return False
        self._calls.put(call)
        return self._thread is not None

    def is_current_thread(self) -> bool:
        """Tell whether the calling thread is the watchdog's."""
        thread = self._thread
        return thread is not None and thread.ident == threading.get_ident()

    def _run(self) -> None:
        mine = False
        while True:
            # An allocation may fail anywhere in here. All pools are still to be watched over then.
            try:
                mine = mine or self._take_over()
                if not mine or self._is_over():
                    return
                self._make_next_call()
                self._tick()
            except MemoryError:
                time.sleep(RETRY_DELAY)

    def _take_over(self) -> bool:
        """Say that this is the thread; False when another was started, since this one was late."""
        with self._lock:
            if self._thread not in {None, threading.current_thread()}:
                return False
            self._thread = threading.current_thread()
            return True

    def _is_over(self) -> bool:
        """Tell whether there is nothing left to do; `add_periodic` starts another thread then."""
        with self._lock:
            if self._due or not self._calls.empty():
                return False
            thread, self._thread = self._thread, None
            # `call_soon` puts a call and then looks for the thread; here it is the other way round, so
            # that one of the two sees the other.
            if self._calls.empty():
                return True
            self._thread = thread
            return False

    def _make_next_call(self) -> None:
        """Make the next call, if one comes before a tick is due."""
        with self._lock:
            due = min(self._due.values(), default=0.0)
            wait = due - time.monotonic()
        try:
            call = self._calls.get(timeout=max(0.0, wait))
        except queue.Empty:
            # What was due before this wait began was held up by the ticks and calls before it, and a call
            # wakes the thread early: neither says how late the system wakes it.
            if wait > 0:
                self.last_wake = Wake(max(0.0, time.monotonic() - due))
            return
        # A pool that this process inherited by a fork raises. Whatever a call raises, all other pools
        # are still to be watched over. (No `suppress`: to make one may fail, and the call would be lost.)
        try:
            if call is not None:
                call()
        except Exception:  # noqa: BLE001, S110
            pass

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [watched for watched, at in self._due.items() if at <= now]
            for watched in due:
                self._due[watched] = now + watched.interval
        for watched in due:
            try:
                watched.tick()
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001, S112  # all others are still to be watched over
                continue


_watchdog = BackgroundThread()


def background_thread() -> BackgroundThread:
    """Return the watchdog of this process."""
    return _watchdog


def _after_fork() -> None:
    # The thread did not survive the fork, and its lock may be held for ever.
    global _watchdog  # noqa: PLW0603  # one per process is the point
    _watchdog = BackgroundThread()


fork_hooks.register(_after_fork)
