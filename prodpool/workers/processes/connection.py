"""The pool's end of the connection to one worker process."""

from __future__ import annotations

import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prodpool.workers.in_worker.call_loop import Ends
from prodpool.workers.in_worker.frames import Frame, FrameReader, Kind, frame

# Milliseconds within which a worker's next outcome has to come, or what waits there is taken back.
QUIET = 1
# Seconds that a request to end may wait for a call that is just being sent.
_CANCEL_PATIENCE = 0.05


class WorkerConnection:
    """Three socket pairs: calls and outcomes, permits (see `prodpool.workers.in_worker.call_loop`), stacks.

    Used by one worker's own thread, save for `cancel`, `hang_up` and ``stacks``.

    Raises:
        OSError: The system has no descriptors to give.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        _open.add(self)
        try:
            self._ours, connection = self._pair()
            self._given, permits = self._pair()
            self.stacks, stacks = self._pair()
        except BaseException:
            self.close()
            raise
        self.theirs = Ends(connection, permits, stacks)
        # Where permits can be taken out again. The flag is the connection's, and so the worker's as well.
        self._permits = permits
        permits.settimeout(0.0)
        self._reader = FrameReader(self._ours)
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._ours, select.POLLIN)
        # The number of the call that is to end, if that could not be sent yet.
        self._cancelled = 0
        # Whether the worker has yet to say that it has thrown away what was taken back, and whether it was
        # told to.
        self.skips = False
        self._told = True

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            end.settimeout(None)  # whatever the application's default for its own sockets is
        self._sockets += pair
        return pair

    def start(self, start: Callable[[], Any]) -> Any:
        """Call what starts the process, which takes ``theirs`` along, and let go of them here; return it."""
        _starting.connection = self
        try:
            process = start()
        finally:
            _starting.connection = None
        for end in (self.theirs.connection, self.theirs.stacks):
            end.close()
            self._sockets.remove(end)
        return process

    def permit(self, calls: int) -> None:
        """Permit the worker to begin so many more calls, which are sent next. Never waits."""
        with suppress(OSError):  # it has gone; that is for `send` and `receive` to say
            self._given.sendall(b"\1" * calls)

    def send(self, message: bytes) -> bool:
        """Send one or several calls; False if the worker has gone and got none of them.

        It may have answered others before it went: that it has gone is for `receive` to say, after those.
        """
        with self._sending:
            try:
                sent = self._ours.send(message)
            except OSError:
                self._stop_sending()
                return False
            if sent < len(message):
                try:
                    self._ours.sendall(memoryview(message)[sent:])
                except OSError:
                    self._stop_sending()
        if self._cancelled:
            self.cancel(self._cancelled)
        return True

    def take_back(self, most: int) -> int:
        """Take back up to ``most`` calls that the worker has not begun, the last ones; return how many.

        From any thread; never waits. Nothing must be sent after that until `resume` was called, and the
        worker has said that it has thrown them away.
        """
        if not most:
            return 0
        try:
            taken = len(self._permits.recv(most))
        except OSError:  # it has begun them all
            return 0
        if taken:
            self.skips, self._told = True, False
        return taken

    def resume(self) -> None:
        """Have the worker throw away what was taken back."""
        if self._told:
            return
        self._told = True
        with self._sending:
            try:
                self._ours.sendall(frame(Kind.SKIPPED))
            except OSError:  # as in `send`
                self._stop_sending()

    def _stop_sending(self) -> None:
        """Have the worker end, if it has not, when it has answered what it was sent as a whole."""
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)

    def receive(self, *, hurry: bool = False) -> Frame | None:
        """Return the worker's next message; None if there was none for a moment (``hurry``).

        Raises:
            EOFError, OSError: The worker has gone.
        """
        while (message := self._reader.next()) is None:
            if not hurry:
                self._reader.fill()
                continue
            try:
                self._reader.fill(socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._poll.poll(QUIET):
                    return None
        return message

    def cancel(self, number: int) -> None:
        """Ask a call to end, and those before it; from any thread."""
        self._cancelled = number
        if self._sending.acquire(timeout=_CANCEL_PATIENCE):
            try:
                with suppress(OSError):
                    self._ours.send(frame(Kind.CANCEL, number), socket.MSG_DONTWAIT)
                    self._cancelled = 0
            finally:
                self._sending.release()

    def hang_up(self) -> None:
        """Wake the thread that waits for a message, as if the worker had ended; from any thread."""
        with suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, which ends the worker when it has nothing to do."""
        self.close_but(None)

    def close_but(self, kept: Ends | None) -> None:
        """Close every end but those that are kept, in a process that was forked for them."""
        for end in self._sockets:
            if kept is None or end not in kept:
                end.close()


_open: weakref.WeakSet[WorkerConnection] = weakref.WeakSet()
_starting = threading.local()


def _after_fork() -> None:
    # A forked process would hold open for ever what the pool closes.
    mine = getattr(_starting, "connection", None)
    for connection in list(_open):
        connection.close_but(connection.theirs if connection is mine else None)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
