"""The pool's end of the connection to one worker process."""

from __future__ import annotations

import select
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prodpool.concurrency import fork_hooks
from prodpool.workers.in_worker.call_loop import WorkerSockets
from prodpool.workers.in_worker.frames import Frame, FrameReader, Kind, frame

# Milliseconds within which a worker's next result has to come, or the calls that wait there are revoked.
RESULT_WAIT_MS = 1
# Seconds that a request to end may wait for a call that is just being sent.
_CANCEL_PATIENCE = 0.05


class WorkerConnection:
    """Three socket pairs: calls and outcomes, credits (see `prodpool.workers.in_worker.call_loop`), stacks.

    Used by one worker's own thread, save for `cancel`, `shut_down` and ``stacks``.

    Raises:
        OSError: The system has no descriptors to give.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        _open.add(self)
        try:
            self._socket, connection = self._pair()
            self._credit_sender, credit_receiver = self._pair()
            self.stacks, stacks = self._pair()
        except BaseException:
            self.close()
            raise
        self.worker_sockets = WorkerSockets(connection, credit_receiver, stacks)
        # Where credits can be taken out again. The flag is the connection's, and so the worker's as well.
        self._credits = credit_receiver
        credit_receiver.settimeout(0.0)
        self._reader = FrameReader(self._socket)
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        # The calls that are to be asked to end. Any thread appends; whoever holds _sending takes out.
        self._to_cancel: deque[int] = deque()
        # Whether the worker has yet to say that it has discarded the revoked calls, and was told to do so.
        self.discarding = False
        self._discard_sent = True

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair()
        for end in pair:
            end.settimeout(None)  # whatever the application's default for its own sockets is
        self._sockets += pair
        return pair

    def start(self, start: Callable[[], Any]) -> Any:
        """Call ``start``, whose process takes ``worker_sockets``; close them here and return the process."""
        _starting.connection = self
        try:
            process = start()
        finally:
            _starting.connection = None
        for end in (self.worker_sockets.connection, self.worker_sockets.stacks):
            end.close()
            self._sockets.remove(end)
        return process

    def add_credits(self, calls: int) -> None:
        """Let the worker begin so many more calls, which are sent next. Never waits."""
        with suppress(OSError):  # it has gone; that is for `send` and `receive` to say
            self._credit_sender.sendall(b"\1" * calls)

    def send(self, message: bytes) -> bool:
        """Send one or several calls; False if the worker has gone and got none of them.

        It may have answered others before it went: that it has gone is for `receive` to say, after those.
        """
        with self._sending:
            try:
                sent = self._socket.send(message)
            except OSError:
                self._stop_sending()
                return False
            if sent < len(message):
                try:
                    self._socket.sendall(memoryview(message)[sent:])
                except OSError:
                    self._stop_sending()
        if self._to_cancel:
            self._send_cancels(_CANCEL_PATIENCE)
        return True

    def revoke(self, most: int) -> int:
        """Revoke up to ``most`` calls that the worker has not begun, the last ones; return how many.

        From any thread; never waits. Nothing must be sent after that until `send_discard` was called, and the
        worker has said that it has discarded them.
        """
        if not most:
            return 0
        try:
            taken = len(self._credits.recv(most))
        except OSError:  # it has begun them all
            return 0
        if taken:
            self.discarding, self._discard_sent = True, False
        return taken

    def send_discard(self) -> None:
        """Tell the worker to discard the calls that were revoked."""
        if self._discard_sent:
            return
        self._discard_sent = True
        with self._sending:
            try:
                self._socket.sendall(frame(Kind.DISCARD))
            except OSError:  # as in `send`
                self._stop_sending()
        self._send_cancels(_CANCEL_PATIENCE)

    def _stop_sending(self) -> None:
        """Have the worker end, if it has not, when it has answered what it was sent as a whole."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def receive(self, *, briefly: bool = False) -> Frame | None:
        """Return the worker's next message; None if there was none for a moment (``briefly``).

        Raises:
            EOFError, OSError: The worker has gone.
        """
        while (message := self._reader.next()) is None:
            if not briefly:
                self._reader.fill()
                continue
            try:
                self._reader.fill(socket.MSG_DONTWAIT)
            except BlockingIOError:
                if not self._poll.poll(RESULT_WAIT_MS):
                    return None
        return message

    def cancel(self, number: int, patience: float = _CANCEL_PATIENCE) -> None:
        """Ask a call to end, and those before it; from any thread.

        After ``patience`` seconds it is left to the thread that is just sending.
        """
        self._to_cancel.append(number)
        self._send_cancels(patience)

    def _send_cancels(self, patience: float) -> None:
        # Again where one was appended while others were sent.
        while self._to_cancel and self._sending.acquire(timeout=patience):
            try:
                asked = [self._to_cancel[index] for index in range(len(self._to_cancel))]
                if asked:
                    self._socket.send(frame(Kind.CANCEL, max(asked)), socket.MSG_DONTWAIT)
                for _ in asked:
                    self._to_cancel.popleft()
            except OSError:
                return  # with what is sent next
            finally:
                self._sending.release()

    def shut_down(self) -> None:
        """Wake the thread that waits for a message, as if the worker had ended; from any thread."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, which ends the worker when it has nothing to do."""
        self.close_except(None)

    def close_except(self, kept: WorkerSockets | None) -> None:
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
        connection.close_except(connection.worker_sockets if connection is mine else None)
    _open.clear()


fork_hooks.register(_after_fork)
