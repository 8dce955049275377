"""The thread that settles what comes back from a backend, and what it is woken for."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Collection
from contextlib import suppress

from prodpool.current import here
from prodpool.worker import Worker


class Courier:
    """Makes the calls posted to it, in order, in one thread of the pool's own.

    A backend makes its done-callbacks under locks that it would take again for a submit
    (ProcessPoolExecutor, 3.12 on), or in the thread that everything else waits for (dask): they do
    nothing but post. The application's own code runs here too, in done-callbacks and where calls are
    pickled and results loaded; `inside` knows this thread, so that it is refused what would wait for itself.

    Args:
        pool: The pool's name, for the thread's.
        settles: The workers whose tasks it settles.
        due_in: Returns the seconds until ``on_due`` is to be called; None for not at all.
        on_due: Does what has come due.
        on_error: Told what a call raised; the thread goes on.
    """

    def __init__(
        self,
        pool: str,
        *,
        settles: Collection[Worker],
        due_in: Callable[[], float | None],
        on_due: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._settles = settles
        self._due_in = due_in
        self._on_due = on_due
        self._on_error = on_error
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Have the thread running.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(
                    target=self._run, name=f"prodpool-courier-{self._pool}", daemon=True
                )
                # An empty context: the thread must not keep the span of whoever started it.
                contextvars.Context().run(thread.start)
                self._thread = thread

    def post(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by the courier; may be called under any lock."""
        self._calls.put(call)

    def close(self) -> None:
        """Let the thread end when it has made the calls posted so far."""
        self._calls.put(None)

    def _run(self) -> None:
        here.settles = self._settles
        while True:
            due = self._due_in()
            call: Callable[[], object] | None = self._on_due
            # What is due comes first, or a courier that is never idle would never get to it.
            if due is None or due > 0.0:
                with suppress(queue.Empty):
                    call = self._calls.get(timeout=None if due is None else min(due, threading.TIMEOUT_MAX))
            if call is None:
                return
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # everything else in the pool waits for this thread
                self._on_error(error)
            del call  # it holds a task, and it may be a long time until the next
