"""The thread that settles what comes back from a backend, and what it is woken for."""

from __future__ import annotations

import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress

from prodpool.concurrency.interrupts import start_thread

# Seconds waited in one go: the system counts milliseconds, and not without end.
_LONGEST = 3600.0


class LoopThread:
    """Makes the calls posted to it, in order, in one thread of the pool's own.

    A backend makes its done-callbacks under locks that it would take again for a submit
    (ProcessPoolExecutor, 3.12 on), or in the thread that everything else waits for (dask): they do
    nothing but post. The application's own code runs here too, in done-callbacks and where calls are
    pickled and results loaded; `is_inside` knows this thread, and refuses it what would wait for itself.

    Args:
        pool: The pool's name, for the thread's.
        on_start: Called first in the thread.
        due_in: Returns the seconds until ``on_due`` is to be called; None for not at all.
        on_due: Does what has come due.
        on_error: Told what a call raised; the thread goes on.
    """

    def __init__(
        self,
        pool: str,
        *,
        on_start: Callable[[], None],
        due_in: Callable[[], float | None],
        on_due: Callable[[], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._on_start = on_start
        self._due_in = due_in
        self._on_due = on_due
        self._on_error = on_error
        # None is the last that it hears.
        self._calls: deque[Callable[[], object] | None] = deque()
        self._wakeup = WakeupSocket()
        self._sources: selectors.BaseSelector | None = None
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if it does not run.

        Raises:
            RuntimeError: The system has no thread to give, or no descriptor.
        """
        with self._lock:
            if self._thread is not None:
                return
            self._open()
            name = f"prodpool-handoff-{self._pool}"
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            try:
                start_thread(thread)
            except RuntimeError:
                self._let_go()
                raise
            # After Ctrl-C it may come up all the same; it says so itself then, in `_run`.
            self._thread = thread

    def _open(self) -> None:
        if self._sources is not None:
            return
        with ExitStack() as undo:
            try:
                sources = selectors.DefaultSelector()
                undo.callback(sources.close)
                sources.register(self._wakeup.open(), selectors.EVENT_READ, self._wakeup.drain)
                undo.callback(self._wakeup.close)
            except OSError as error:
                raise RuntimeError(f"can't start the thread of pool {self._pool!r}: {error}") from error
            self._sources = sources
            undo.pop_all()

    def _let_go(self) -> None:
        sources, self._sources = self._sources, None
        if sources is not None:
            sources.close()
        self._wakeup.close()

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have ``call`` made by this thread; may be called under any lock."""
        self._calls.append(call)
        self._wakeup.wake()

    def wake(self) -> None:
        """Have the thread look for calls again."""
        if self._calls:
            self._wakeup.wake()

    def close(self) -> None:
        """Let the thread end when it has made the calls posted so far."""
        self._calls.append(None)
        self._wakeup.wake()

    def _run(self) -> None:
        with self._lock:
            if self._thread not in {None, threading.current_thread()}:
                return  # another was started, since this one was late
            self._thread = threading.current_thread()
        try:
            self._on_start()
            while not self._serve():
                pass
        finally:
            self._let_go()

    def _serve(self) -> bool:
        """Make the calls that wait; True when those were the last, False when memory is short."""
        try:
            while True:
                due = self._due_in()
                if due is not None and due <= 0.0:
                    # What is due comes first, or a thread that is never idle would never get to it.
                    self.call_now(self._on_due)
                    due = 0.0
                for on_ready in self._wait(due):
                    self.call_now(on_ready)
                for _ in range(len(self._calls)):
                    if self._calls[0] is None:
                        return True
                    self.call_now(self._calls.popleft())
        except MemoryError as error:
            # Everything that waited waits still; everything else in the pool waits for this thread.
            self._on_error(error)
            return False

    def _wait(self, seconds: float | None) -> list[Callable[[], object]]:
        """Wait until there is a call or a socket is ready; return the calls for the sockets that are."""
        self._wakeup.arm()
        if self._calls:  # posted before it would have been woken
            seconds = 0.0
        if seconds is not None:
            seconds = min(seconds, _LONGEST)
        try:
            assert self._sources is not None  # noqa: S101  # `start` opened them
            return [key.data for key, _ in self._sources.select(seconds)]
        finally:
            self._wakeup.disarm()

    def call_now(self, call: Callable[[], object] | None) -> None:
        """Make ``call`` now and tell what it raises; used by this thread alone."""
        try:
            if call is not None:
                call()
        except BaseException as error:  # noqa: BLE001  # everything else in the pool waits for this thread
            self._on_error(error)


class WakeupSocket:
    """Wakes a thread that waits for other things besides, and costs nothing while it does not wait."""

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, ...] = ()
        self._heard = False
        # No thread writes while the sockets are closed: their numbers may be other files' then. One that its
        # own thread may take again, since a signal may come, or garbage be collected, in the midst of `wake`.
        self._lock = threading.RLock()

    def open(self) -> socket.socket:
        """Return the socket that becomes readable when `wake` is called.

        Raises:
            OSError: There is no descriptor to be had.
        """
        self._ends = socket.socketpair()
        for end in self._ends:
            end.settimeout(0.0)
        return self._ends[0]

    def arm(self) -> None:
        """Announce that the thread will wait; it must then check once more whether a call is there."""
        self._heard = True

    def disarm(self) -> None:
        """Wait no more."""
        self._heard = False

    def wake(self) -> None:
        """Wake the thread, if it waits; from any thread and under any lock."""
        if self._heard:
            with self._lock, suppress(OSError):  # woken often enough, or closed
                self._heard = False
                self._ends[1].send(b"\0")

    def drain(self) -> None:
        """Read what `wake` has sent."""
        with suppress(BlockingIOError):
            self._ends[0].recv(4096)

    def close(self) -> None:
        """Close both sockets."""
        with self._lock:
            for end in self._ends:
                end.close()
