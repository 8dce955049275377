"""The loop of a worker process: it makes the calls that the pool sends, one after the other.

Each call needs a credit, a byte that the pool has put into a socket of its own. The pool can take credits out
again, and so revoke calls that have arrived here and not begun. These are the last ones, since a credit
belongs to no call. A worker that finds no credit discards the calls that it was sent, up to the pool's
message ``DISCARD``, and reports ``DISCARDED``.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from prodpool.workers.in_worker.call import CallHeader, CallResult, Dumps, TaskInfo, failed_result, run_call
from prodpool.workers.in_worker.frames import OUTCOME, Frame, FrameReader, Kind, Payload, frame, frame_header
from prodpool.workers.in_worker.setup import (
    end_with_parent,
    ignore_keyboard,
    is_signal_taken,
    register_stack_dumps,
)

# Bytes of a result from which it is sent by itself and not copied into one message.
_LARGE = 1 << 15


class WorkerSockets(NamedTuple):
    """The worker's ends of its connections: calls and outcomes, credits, stacks."""

    connection: socket.socket
    credits: socket.socket
    stacks: socket.socket


class WorkerStartup(NamedTuple):
    """How the worker begins, as the application has set up the executor.

    Attributes:
        pool: The pool's name.
        initializer: Called before the first call; None for nothing.
        initargs: Its arguments.
        dumps: Pickles results.
    """

    pool: str
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]
    dumps: Dumps


def run_worker(sockets: WorkerSockets, start: WorkerStartup) -> None:
    """Make calls until the pool disconnects. The main function of a worker process."""
    global _own_sockets  # noqa: PLW0603  # a process works for one pool
    _own_sockets = sockets
    for end in sockets:
        # What a task starts must not hold it open.
        end.set_inheritable(False)
        _close_copies(end)
    # Whatever the application's default for its own sockets is.
    sockets.connection.settimeout(None)
    ignore_keyboard()
    end_with_parent()
    calls = CallLoop(sockets, start, stacks=register_stack_dumps(sockets.stacks))
    # The pool may have disconnected, or be gone.
    with suppress(EOFError, ConnectionError):
        if calls.initialize(start.initializer, start.initargs):
            calls.serve()


def _close_copies(end: socket.socket) -> None:
    """Close other descriptors of a connection in this process: loky passes them on and keeps them."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names are all that is wanted
            with suppress(OSError):
                if int(name) != end.fileno() and os.path.sameopenfile(int(name), end.fileno()):
                    os.close(int(name))


class CallLoop:
    """The calls of one worker process; ``stacks``: whether it answers when it is asked for its stacks."""

    def __init__(self, sockets: WorkerSockets, start: WorkerStartup, *, stacks: bool) -> None:
        self._stacks = stacks
        self._connection = sockets.connection
        self._credits = sockets.credits.fileno()
        self._pool = start.pool
        self._dumps = start.dumps
        self._reader = FrameReader(sockets.connection)
        # A task's own thread may ask whether it is to end, and so read from the connection.
        self._reading = threading.Lock()
        # Calls, and messages about them, that were read while a task ran: kind, number and body.
        self._waiting: deque[Frame] = deque()
        self._cancelled_up_to = 0

    def initialize(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bool:
        """Call the application's initializer and tell the pool; False if that has failed."""
        try:
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # the pool is told, whatever it is
            # As the standard library's own worker does.
            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            nothing = CallHeader(self._pool, "initializer", None, None)
            told = failed_result(nothing, 0.0, error, self._dumps)
            self._connection.sendall(frame(Kind.START_FAILED, 0, pickle.dumps((told.error, told.stack))))
            return False
        self._connection.sendall(frame(Kind.READY, self._stacks and not is_signal_taken()))
        return True

    def serve(self) -> None:
        """Make calls until the pool disconnects.

        Raises:
            EOFError, ConnectionError: It has.
        """
        while True:
            message = self._next_frame()
            if message.kind != Kind.CALL:
                continue
            try:
                credit = os.read(self._credits, 1)
            except BlockingIOError:
                self._discard_revoked()
                continue
            if not credit:
                raise EOFError
            number, bodies = message.number, [message.body]
            del message
            self._run_call(number, bodies)

    def _discard_revoked(self) -> None:
        """Discard the calls that the pool has revoked."""
        while self._next_frame().kind != Kind.DISCARD:
            pass
        self._connection.sendall(frame(Kind.DISCARDED))

    def _run_call(self, number: int, bodies: list[bytes | memoryview]) -> None:
        """Make the call in ``bodies``, which is empty from when that is loaded: nothing else keeps it."""
        body = memoryview(bodies.pop())
        length = int.from_bytes(body[:4], "little")
        task, trace_context, info = pickle.loads(body[4 : 4 + length])  # noqa: S301  # from our own pool
        header = CallHeader(self._pool, task, trace_context, info and TaskInfo(*info))
        bodies.append(body[4 + length :])
        del body
        outcome = run_call(header, bodies.pop, self._dumps, partial(self._is_cancelled, number))
        for told in outcome.telemetry_errors:
            self._connection.sendall(frame(Kind.TELEMETRY_ERROR, number, pickle.dumps(told)))
        self._send_result(number, outcome)

    def _send_result(self, number: int, outcome: CallResult) -> None:
        stack, payload = b"", b""
        if outcome.expired:
            kind = Payload.EXPIRED
        elif outcome.error is not None:
            kind, payload = Payload.ERROR, outcome.error
            stack = (outcome.stack or "").encode(errors="replace")
        elif outcome.pickled:
            kind, payload = Payload.PICKLED, outcome.value
        else:
            kind, payload = Payload.PLAIN, pickle.dumps(outcome.value, pickle.HIGHEST_PROTOCOL)
        head = OUTCOME.pack(outcome.started, outcome.ended, kind, len(stack)) + stack
        top = frame_header(Kind.RESULT, number, len(head) + len(payload)) + head
        if len(payload) < _LARGE:
            self._connection.sendall(top + payload)
        else:
            self._connection.sendall(top)
            self._connection.sendall(payload)

    # Reading.

    def _next_frame(self) -> Frame:
        """Return the next message; waits for it."""
        while True:
            with self._reading:
                if self._waiting:
                    return self._waiting.popleft()
                self._read(0)

    def _is_cancelled(self, number: int) -> bool:
        """Tell whether the pool wants the call to end that is being made."""
        if self._cancelled_up_to < number and self._reading.acquire(blocking=False):
            try:
                # The thread that makes the calls sees it as well.
                with suppress(BlockingIOError, EOFError, ConnectionError):
                    self._read(socket.MSG_DONTWAIT)
            finally:
                self._reading.release()
        return self._cancelled_up_to >= number

    def _read(self, flags: int) -> None:
        """Read from the connection and sort the messages. The lock is held."""
        try:
            self._reader.fill(flags)
            while (message := self._reader.next()) is not None:
                if message.kind == Kind.CANCEL:
                    self._cancelled_up_to = max(self._cancelled_up_to, message.number)
                else:
                    self._waiting.append(message)
        except MemoryError:
            # Something was read and is lost, which would be waited for. The pool sees the process end.
            os._exit(1)


# What this process is connected by, if it is a worker.
_own_sockets: WorkerSockets | None = None


def _after_fork() -> None:
    # What a task forks is no worker, and must not hold the connection of one open.
    global _own_sockets
    mine, _own_sockets = _own_sockets, None
    for end in mine or ():
        end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
