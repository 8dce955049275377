"""A short way to worker processes of this host, past the queues of the backend that they belong to.

A call that goes through a process pool passes two threads, two locks and two pipes there, and so does its
outcome; that costs several times what the pool adds. Here the backend only lends its workers, a tenth of a
second at a time (`serve`). They take their calls from one socket, which hands each message to exactly one of
them, and whoever is free takes the next. What none has taken can be read back, so that it is known for
certain never to have begun.
"""

from __future__ import annotations

import pickle
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextlib import suppress
from functools import partial
from typing import Any

from prodpool.workers.courier import Courier
from prodpool.workers.ends import Ends
from prodpool.workers.serving import GOODBYE, LARGEST, LENGTH, RETURN, serve
from prodpool.workers.shim import Outcome, Ticket
from prodpool.workers.window import Handover

_CHUNK = 1 << 18
_NUMBER = Ticket._fields.index("number")


class Channel:
    """Takes the calls of one pool to the workers of one backend. Used by the courier alone, save for `send`.

    Args:
        address: Path of the socket that workers find it by.
        linger: Seconds that a worker waits for another call before it is given back.
        lend: Hands a call over to the backend.
        workers: How many of its workers may be lent at most.
        courier: In whose thread outcomes are read.
        on_outcome: Told how a call went.
        on_back: Told of a call that nobody has made, and why: None if only this way is closed.
        on_lost: Told of a call that was taken, and whose worker was lost.

    Raises:
        OSError: There is no socket to be had, none that is large enough, or none with that path.
    """

    def __init__(
        self,
        address: str,
        *,
        linger: float,
        lend: Callable[..., Future[Any]],
        workers: Callable[[], int],
        courier: Courier,
        on_outcome: Callable[[Handover, Outcome], None],
        on_back: Callable[[Handover, BaseException | None], None],
        on_lost: Callable[[Handover, BaseException], None],
    ) -> None:
        self.address = address
        self._lend = lend
        self._workers = workers
        self._courier = courier
        self._on_outcome = on_outcome
        self._on_back = on_back
        self._on_lost = on_lost
        self._lock = threading.Lock()
        # Guarded by _lock: what is under way, by its number; what the socket has no room for; who is lent.
        self._out: dict[int, Handover] = {}
        self._backlog: deque[bytes] = deque()
        self._leases = 0
        self._closed = False
        # Why no worker comes any more, once that is so.
        self._fault: BaseException | None = None
        self._ends = Ends(address, linger)
        self._received: dict[socket.socket, bytearray] = {}
        # Whose workers end of their own accord: loky's do after a while without a call.
        self._leaving: set[socket.socket] = set()
        self._hears = False
        courier.post(self._open)

    def send(self, handover: Handover, ticket: Ticket, call: bytes) -> bool:
        """Have a call made; False if it has to go another way. From any thread.

        Raises:
            BaseException: What the backend's ``submit`` raises when it is to lend another worker.
        """
        packet = b"" if len(call) > LARGEST else pickle.dumps((tuple(ticket), call), pickle.HIGHEST_PROTOCOL)
        if not packet or len(packet) > LARGEST:
            self._make_room()
            return False
        with self._lock:
            if self._closed:
                return False
            lacks = self._lacks(len(self._out) + 1)
            self._leases += lacks
        if lacks and not self._hire() and not self._leases:
            return False
        with self._lock:
            if self._closed:
                return False
            self._out[ticket.number] = handover
            self._backlog.append(packet)
            self._flush()
            lacks = self._lacks(len(self._out))
        if lacks:  # one was given back meanwhile, for want of calls
            self._courier.post(self._fill)
        return True

    def retire(self) -> None:
        """Take no more calls; those that nobody has taken come back."""
        with self._lock:
            self._closed = True
            left = self._leases
        self._return_calls()
        self._ends.hang_up()
        if not left:
            self._finish()

    def close(self) -> None:
        """Let everything go; nothing is under way any more."""
        with self._lock:
            self._closed = True
            for source in (self._ends.listener, *self._ends.lines):
                self._courier.forget(source)
            self._ends.close()
            self._received.clear()
            self._leaving.clear()

    # Sending.

    def _flush(self) -> None:
        """Write what there is room for. The lock is held."""
        with suppress(OSError):
            while self._backlog:
                self._ends.calls.send(self._backlog[0])
                self._backlog.popleft()

    def _make_room(self) -> None:
        """Have a worker given back, if all are lent: another call waits for it in the backend's queue."""
        with self._lock, suppress(OSError):
            if self._leases >= self._workers() and not self._backlog:
                self._ends.calls.send(RETURN)

    # Leases.

    def _lacks(self, calls: int) -> bool:
        """Tell whether another worker would have something to do. The lock is held."""
        return self._leases < min(self._workers(), calls)

    def _hire(self) -> bool:
        """Borrow a worker, which is counted already; False if there is no process to be had just now.

        Raises:
            BaseException: What the backend's ``submit`` raises.
        """
        try:
            lease = self._borrow()
        except BaseException as error:
            with self._lock:
                self._leases -= 1
                last = not self._leases
            if last:  # another thread may have relied on this one for its own call
                self._courier.post(self._go_on)
            if isinstance(error, OSError):
                return False
            raise
        lease.add_done_callback(lambda lease: self._courier.post(partial(self._given_back, lease)))
        return True

    def _borrow(self) -> Future[Any]:
        try:
            return self._lend(serve, self.address)
        except OSError:
            # A pool that breaks this moment fails at pipes that are closed already. Now it says what it is.
            return self._lend(serve, self.address)

    def _fill(self) -> None:
        """Borrow the workers that are missing."""
        while True:
            with self._lock:
                self._flush()
                if self._closed or not self._lacks(len(self._out)):
                    return
                self._leases += 1
            if not self._hire_or_fail():
                return

    def _nudge(self) -> None:
        """Have the backend look after its workers, now that one is gone.

        A ProcessPoolExecutor that started a worker after the last call it was given, as it does with spawn
        and forkserver, learns of that worker's death with the next call only.
        """
        with self._lock:
            if self._closed or not self._leases:
                return
            self._leases += 1
        self._hire_or_fail()

    def _hire_or_fail(self) -> bool:
        error = None
        try:
            if self._hire():
                return True
        except BaseException as raised:  # noqa: BLE001  # a backend may raise anything
            error = raised
        # Those that are lent already will do, if there are any.
        if error is not None or not self._leases:
            self._fail(error)
        return False

    def _given_back(self, lease: Future[bool]) -> None:
        with self._lock:
            self._leases -= 1
        try:
            if not lease.result(0):
                self._fail(None)
        except BrokenExecutor as error:
            self._fail(error)
        except Exception:  # noqa: BLE001  # cancelled, or the worker has no such module: it is to be asked
            self._fail(None)
        except BaseException:  # noqa: BLE001, S110  # interrupted; there are others
            pass
        self._go_on()

    def _go_on(self) -> None:
        """Borrow the workers that are missing, or end with the last."""
        if not self._closed:
            self._open()
            self._fill()
        elif not self._leases:
            self._finish()

    def _fail(self, error: BaseException | None) -> None:
        """Take no more calls, since nobody comes for them; whoever is at work brings home what it has."""
        with self._lock:
            self._closed = True
            self._fault = self._fault or error
        self._return_calls()

    def _return_calls(self) -> None:
        """Give back the calls that nobody has taken: they have not begun, and never will here."""
        with self._lock:
            packets = [*self._ends.read_back(), *self._backlog]
            self._backlog.clear()
            numbers = [pickle.loads(packet)[0][_NUMBER] for packet in packets]  # noqa: S301  # our own
            handovers = [self._out.pop(number) for number in numbers]
        for handover in handovers:
            self._courier.make(partial(self._on_back, handover, self._fault))

    def _finish(self) -> None:
        """Settle what is under way, since the last worker is gone."""
        for line in list(self._received):
            while self._read(line):
                pass
        self._return_calls()
        with self._lock:
            lost, self._out = list(self._out.values()), {}
        self.close()
        error = self._fault or BrokenExecutor("a worker was given back without its outcome")
        for handover in lost:
            self._courier.make(partial(self._on_lost, handover, error))

    # Outcomes.

    def _open(self) -> None:
        """Hear who comes for the first time."""
        if not (self._closed or self._hears):
            self._courier.watch(self._ends.listener, self._let_in)
            self._hears = True

    def _let_in(self) -> None:
        """Tell a worker where to take calls from."""
        try:
            line = self._ends.accept()
        except OSError:
            # Out of descriptors. It would be heard all the time; when it gives up, its lease is over.
            self._courier.forget(self._ends.listener)
            self._hears = False
            return
        if line is not None:
            self._received[line] = bytearray()
            self._courier.watch(line, lambda: self._read(line))

    def _read(self, line: socket.socket) -> bool:
        """Take in what a worker has sent; False when that is all for the moment."""
        try:
            data = line.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._courier.forget(line)
            self._received.pop(line, None)
            self._ends.lines.discard(line)
            line.close()
            if line not in self._leaving:
                self._nudge()
            self._leaving.discard(line)
            return False
        received = self._received[line]
        received += data
        at, answers = 0, []
        while len(received) - at >= LENGTH.size:
            end = at + LENGTH.size + LENGTH.unpack_from(received, at)[0]
            if end > len(received):
                break
            answers.append(pickle.loads(received[at + LENGTH.size : end]))  # noqa: S301  # our own worker's
            at = end
        del received[:at]
        for number, fields in answers:
            if number == GOODBYE:
                self._leaving.add(line)
            self._courier.make(partial(self._deliver, number, fields))
        return True

    def _deliver(self, number: int, fields: tuple[Any, ...] | None) -> None:
        with self._lock:
            handover = self._out.pop(number, None)
            self._flush()
        if handover is None:
            return
        if fields is None:
            self._on_back(handover, None)
        else:
            self._on_outcome(handover, Outcome(*fields))
