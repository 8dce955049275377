"""One daemon thread for all pools of the process, and what it is woken for.

It ends when the last pool is gone, so that a process without pools has no thread of ours.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from prodpool.errors import PoolClosedError

THREAD_NAME = "prodpool-watchdog"


class Watched(Protocol):
    """Whatever wants to be looked after at intervals."""

    interval: float

    def tick(self) -> None:
        """Look once. Never raises."""


class Watchdog:
    """Calls ``tick`` of everything it watches, each at its own interval of real seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock: who is watched and when it is due (seconds of time.monotonic).
        self._due: dict[Watched, float] = {}
        self._thread: threading.Thread | None = None
        # SimpleQueue is reentrant: `soon` may be called from a finalizer or a signal handler.
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def watch(self, watched: Watched) -> None:
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
                # An empty context: a thread started inside a span would keep that span for ever.
                contextvars.Context().run(thread.start)
            except BaseException:
                del self._due[watched]
                raise
            self._thread = thread

    def unwatch(self, watched: Watched) -> None:
        """Stop ticking ``watched``; the thread ends with the last one."""
        with self._lock:
            self._due.pop(watched, None)
        self._calls.put(None)

    def soon(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by the watchdog's thread; it must be quick and must not raise.

        Without a thread there is no pool left that the call could be about, and it would wait here for
        the next one with all that it holds. It takes no lock: a finalizer may call it anywhere.
        """
        if self._thread is not None:
            self._calls.put(call)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due and self._calls.empty():
                    self._thread = None
                    return
                now = time.monotonic()
                wait = max(0.0, min(self._due.values(), default=now) - now)
            try:
                call = self._calls.get(timeout=wait)
            except queue.Empty:
                call = None
            if call is not None:
                with suppress(PoolClosedError):  # about a pool that this process inherited by a fork
                    call()
                call = None  # it may hold a pool, and the next call be a long time off
            self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        with self._lock:
            due = [watched for watched, at in self._due.items() if at <= now]
            for watched in due:
                self._due[watched] = now + watched.interval
        for watched in due:
            watched.tick()


_watchdog = Watchdog()


def watchdog() -> Watchdog:
    """Return the watchdog of this process."""
    return _watchdog


def _after_fork() -> None:
    # The thread did not survive the fork, and its lock may be held for ever.
    global _watchdog  # noqa: PLW0603  # one per process is the point
    _watchdog = Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
