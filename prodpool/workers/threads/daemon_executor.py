"""Threads of our own: daemons, so that a task that never ends cannot hold up the process's exit."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from prodpool.concurrency.interrupts import start_thread


class DaemonThreadExecutor(Executor):
    """Runs each submitted call in a daemon thread of its own.

    The pool submits one long-lived loop per worker, so a thread per call is what is wanted, and how
    many there are is the pool's business: there is no bound here, and nothing to resize.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``fn(*args, **kwargs)`` in a new thread.

        Raises:
            RuntimeError: `shutdown` was called, or the system has no thread to give.
        """
        future: Future[Any] = Future()
        thread = threading.Thread(
            target=self._run,
            args=(future, fn, args, kwargs),
            name=f"{self._name}-{next(self._numbers)}",
            daemon=True,
        )
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._threads.add(thread)
        try:
            start_thread(thread)
        except BaseException:
            with self._lock:
                self._threads.discard(thread)
            raise
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take no more calls; with ``wait``, return once every thread has ended."""
        with self._lock:
            self._closed = True
            threads = list(self._threads)
        if wait:
            for thread in threads:
                thread.join()

    def _run(self, future: Future[Any], fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
        try:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001  # the future carries it
                    future.set_exception(error)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
