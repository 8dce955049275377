"""Things said aside: log lines of a stop, written by a thread of their own.

A log sink may hang, or may be locked by the very frame on top of which a signal handler called
`stop`. The drain and its deadline must not wait for it.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable

from prodpool.latch import Latch
from prodpool.telemetry.watchdog import watchdog


class Aside:
    """Makes calls in order, in one daemon thread; in the watchdog's where none can be started."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            contextvars.Context().run(self._thread.start)
        except RuntimeError:  # the interpreter is shutting down (3.12 on)
            self._thread = None

    def say(self, call: Callable[[], None]) -> None:
        """Have ``call`` made; it must not raise."""
        if self._thread is None:
            watchdog().soon(call)
        else:
            self._calls.put(call)

    def finish(self, timeout: float) -> None:
        """Wait until everything is said, ``timeout`` seconds at most."""
        if self._thread is None:
            said = Latch()
            watchdog().soon(said.open)
            said.wait(timeout)
        else:
            self._calls.put(None)
            self._thread.join(timeout)
            self._thread = None  # a thread object that is kept looks like a thread that leaked

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
