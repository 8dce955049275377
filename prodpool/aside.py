"""Calls made aside, by a thread of their own: log lines of a stop, done-callbacks of what was dropped.

A log sink or a callback may hang, or may want a lock that is held by the very frame on top of which
a signal handler called `stop`. The drain, its deadline and the watchdog must not wait for it.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from prodpool.latch import Latch
from prodpool.telemetry.watchdog import watchdog


class Aside:
    """Makes calls in order, in one daemon thread; in the watchdog's where none can be started.

    The thread is started for the first call. Used by one thread at a time.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._used = False
        self._thread: threading.Thread | None = None

    def say(self, call: Callable[[], None]) -> None:
        """Have ``call`` made; it must not raise."""
        if not self._used:
            self._used = True
            self._start()
        if self._thread is None:
            watchdog().soon(call)
        else:
            self._calls.put(call)

    def finish(self, timeout: float) -> None:
        """Wait until all calls are made, ``timeout`` seconds at most, and let the thread go."""
        if not self._used:
            return
        if self._thread is None:
            made = Latch()
            watchdog().soon(made.open)
            made.wait(timeout)
        else:
            self._calls.put(None)
            self._thread.join(timeout)
            self._thread = None  # a thread object that is kept looks like a thread that leaked

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        # The interpreter may be shutting down (3.12 on); an empty context, or a span would be kept alive.
        with suppress(RuntimeError):
            contextvars.Context().run(thread.start)
            self._thread = thread

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
