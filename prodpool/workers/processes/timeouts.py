"""Kills the worker process whose task runs longer than it may."""

from __future__ import annotations

import threading
import time

from prodpool.concurrency.interrupts import start_thread
from prodpool.workers.base import kill
from prodpool.workers.processes.remote_worker import RemoteWorker


class TimeoutEnforcer:
    """The limits of the tasks of one pool, in a thread that does nothing else.

    Not in that of the task's worker, which may be kept by a done-callback of the application's.
    """

    def __init__(self, pool: str) -> None:
        self._pool = pool
        self._changed = threading.Condition()
        # Guarded by _changed: when which process is to be killed, and for which call.
        self._due: dict[RemoteWorker, tuple[float, int]] = {}
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread: at the interpreter's exit it is too late for that (3.12 on).

        Raises:
            RuntimeError: The system has no thread to give.
        """
        with self._changed:
            if self._thread is None and not self._closed:
                name = f"prodpool-limits-{self._pool}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                try:
                    start_thread(self._thread)
                except BaseException:
                    self._thread = None
                    raise

    def begin(self, worker: RemoteWorker, seconds: float | None) -> None:
        """Kill the worker's process in so many seconds (None: never), unless `end` comes first.

        For the call that it is sent next.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        if seconds is None or seconds >= threading.TIMEOUT_MAX:
            return
        if self._thread is None:
            self.start()
        with self._changed:
            self._due[worker] = time.monotonic() + seconds, worker.calls + 1
            self._changed.notify()

    def end(self, worker: RemoteWorker) -> None:
        """Let the process live; its task has ended."""
        with self._changed:
            self._due.pop(worker, None)

    def close(self) -> None:
        """Have the thread end."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def thread(self) -> threading.Thread | None:
        """Return the thread, unless there is none or it has ended."""
        thread = self._thread
        return None if thread is None or not thread.is_alive() else thread

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for worker, (at, number) in list(self._due.items()):
                    if at <= now:
                        del self._due[worker]
                        worker.timed_out = number
                        kill(worker.process)
                next_at = min((at for at, _ in self._due.values()), default=None)
                self._changed.wait(None if next_at is None else max(0.0, next_at - now))
