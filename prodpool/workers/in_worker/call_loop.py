"""What a worker process does: it makes the calls that the pool sends, one after the other.

Each call needs a permit, a byte that the pool has put into a socket of its own. The pool can take permits out
again, and so take back calls that have not begun although they are here already; the last ones first, since a
permit belongs to no call. A worker that finds no permit throws away what it was sent, up to the pool's
message which says that all of that was taken back, and reports so.
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

from prodpool.workers.in_worker.call import CallHeader, CallResult, Dumps, TaskInfo, failed, run_taken
from prodpool.workers.in_worker.frames import OUTCOME, Frame, FrameReader, Kind, Payload, frame, header
from prodpool.workers.in_worker.setup import end_with_parent, ignore_keyboard, is_taken, offer_stacks

# Bytes of a result from which it is sent by itself and not copied into one message.
_LARGE = 1 << 15


class Ends(NamedTuple):
    """The worker's ends of its connections: calls and outcomes, permits, stacks."""

    connection: socket.socket
    permits: socket.socket
    stacks: socket.socket


class Start(NamedTuple):
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


def work(ends: Ends, start: Start) -> None:
    """Make calls until the pool hangs up. The main function of a worker process."""
    global _mine  # noqa: PLW0603  # a process works for one pool
    _mine = ends
    for end in ends:
        # What a task starts must not hold it open.
        end.set_inheritable(False)
        _close_copies(end)
    # Whatever the application's default for its own sockets is.
    ends.connection.settimeout(None)
    ignore_keyboard()
    end_with_parent()
    calls = CallLoop(ends, start, stacks=offer_stacks(ends.stacks))
    # The pool may have hung up, or be gone.
    with suppress(EOFError, ConnectionError):
        if calls.initialize(start.initializer, start.initargs):
            calls.serve()


def _close_copies(end: socket.socket) -> None:
    """Close what else this process has of a connection: loky passes descriptors on and keeps them."""
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names are all that is wanted
            with suppress(OSError):
                if int(name) != end.fileno() and os.path.sameopenfile(int(name), end.fileno()):
                    os.close(int(name))


class CallLoop:
    """The calls of one worker process; ``stacks``: whether it answers when it is asked for its stacks."""

    def __init__(self, ends: Ends, start: Start, *, stacks: bool) -> None:
        self._stacks = stacks
        self._connection = ends.connection
        self._permits = ends.permits.fileno()
        self._pool = start.pool
        self._dumps = start.dumps
        self._reader = FrameReader(ends.connection)
        # A task's own thread may ask whether it is to end, and so read from the line.
        self._reading = threading.Lock()
        # Calls, and messages about them, that were read while a task ran: kind, number and body.
        self._waiting: deque[Frame] = deque()
        self._asked = 0

    def initialize(self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]) -> bool:
        """Call the application's initializer and tell the pool; False if that has failed."""
        try:
            if initializer is not None:
                initializer(*initargs)
        except BaseException as error:  # the pool is told, whatever it is
            # As the standard library's own worker does.
            logging.getLogger("concurrent.futures").critical("Exception in initializer:", exc_info=True)
            nothing = CallHeader(self._pool, "initializer", None, None)
            told = failed(nothing, 0.0, error, self._dumps)
            self._connection.sendall(frame(Kind.START_FAILED, 0, pickle.dumps((told.error, told.stack))))
            return False
        self._connection.sendall(frame(Kind.READY, self._stacks and not is_taken()))
        return True

    def serve(self) -> None:
        """Make calls until the pool hangs up.

        Raises:
            EOFError, ConnectionError: It has.
        """
        while True:
            message = self._next()
            if message.kind != Kind.CALL:
                continue
            try:
                permitted = os.read(self._permits, 1)
            except BlockingIOError:
                self._skip()
                continue
            if not permitted:
                raise EOFError
            number, bodies = message.number, [message.body]
            del message
            self._make(number, bodies)

    def _skip(self) -> None:
        """Throw away what the pool has taken back."""
        while self._next().kind != Kind.SKIPPED:
            pass
        self._connection.sendall(frame(Kind.DRY))

    def _make(self, number: int, bodies: list[bytes | memoryview]) -> None:
        """Make the call in ``bodies``, which is empty from when that is loaded: nothing else keeps it."""
        body = memoryview(bodies.pop())
        length = int.from_bytes(body[:4], "little")
        task, carrier, terms = pickle.loads(body[4 : 4 + length])  # noqa: S301  # from our own pool
        ticket = CallHeader(self._pool, task, carrier, terms and TaskInfo(*terms))
        bodies.append(body[4 + length :])
        del body
        outcome = run_taken(ticket, bodies.pop, self._dumps, partial(self._is_asked, number))
        self._tell(number, outcome)

    def _tell(self, number: int, outcome: CallResult) -> None:
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
        top = header(Kind.RESULT, number, len(head) + len(payload)) + head
        if len(payload) < _LARGE:
            self._connection.sendall(top + payload)
        else:
            self._connection.sendall(top)
            self._connection.sendall(payload)

    # Reading.

    def _next(self) -> Frame:
        """Return the next message; waits for it."""
        while True:
            with self._reading:
                if self._waiting:
                    return self._waiting.popleft()
                self._read(0)

    def _is_asked(self, number: int) -> bool:
        """Tell whether the pool wants the call to end that is being made."""
        if self._asked < number and self._reading.acquire(blocking=False):
            try:
                # The thread that makes the calls sees it as well.
                with suppress(BlockingIOError, EOFError, ConnectionError):
                    self._read(socket.MSG_DONTWAIT)
            finally:
                self._reading.release()
        return self._asked >= number

    def _read(self, flags: int) -> None:
        """Read from the line and sort what has come. The lock is held."""
        try:
            self._reader.fill(flags)
            while (message := self._reader.next()) is not None:
                if message.kind == Kind.CANCEL:
                    self._asked = message.number
                else:
                    self._waiting.append(message)
        except MemoryError:
            # Something was read and is lost, which would be waited for. The pool sees the process end.
            os._exit(1)


# What this process is connected by, if it is a worker.
_mine: Ends | None = None


def _after_fork() -> None:
    # What a task forks is no worker, and must not hold the connection of one open.
    global _mine
    mine, _mine = _mine, None
    for end in mine or ():
        end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
