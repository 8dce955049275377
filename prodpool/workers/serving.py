"""What a worker process does while it is lent to a pool: it takes calls from a socket, one after the other.

The socket is one for all the workers of a backend, and each message in it a call, so that whoever is free
takes the next. Outcomes go back by a connection of each process's own.
"""

from __future__ import annotations

import functools
import os
import pickle
import socket
import struct
import time
from multiprocessing.util import Finalize
from pathlib import Path
from typing import NamedTuple

from prodpool.workers.shim import Outcome, Ticket, failed, run_pickled

# Seconds after which a worker is given back though there is more to do, for whoever else uses the backend.
LEASE = 0.1
# Seconds that the pool has to welcome a worker; it is busy with the application's callbacks perhaps.
_WELCOME = 5.0
# Bytes of the largest call that travels this way; none is cut off.
LARGEST = 1 << 16
# Has the worker that takes it end its lease. No pickle begins like this.
RETURN = b"\x01"
# The number of no call, by which a worker says that it ends of its own accord.
GOODBYE = 0
# What comes before each outcome: how many bytes it has.
LENGTH = struct.Struct("<Q")


class _Lines(NamedTuple):
    """Where this process takes the calls of one pool from, and where it brings the outcomes to."""

    calls: int
    outcomes: socket.socket

    def close(self) -> None:
        os.close(self.calls)
        self.outcomes.close()


_lines: dict[str, _Lines] = {}
# Read into before anything else can happen, so that a call that was taken is never forgotten: an interrupt
# may come between any two steps of Python's.
_taken = bytearray(LARGEST)


def serve(address: str) -> bool:
    """Make calls from the channel at ``address`` for a while; False if it cannot be reached from here."""
    try:
        lines = _lines.get(address) or _connect(address)
    except TimeoutError:
        return True  # its pool is too busy to answer
    except OSError:
        return False
    ends_at = time.monotonic() + LEASE
    while _serve_one(lines):
        if time.monotonic() >= ends_at:
            return True
    # Perhaps it was closed, which its file tells.
    _forget_closed()
    return True


def _serve_one(lines: _Lines) -> bool:
    """Take a call, make it, and bring its outcome home; False when no other is to be waited for."""
    begun = False
    _taken[0] = 0
    try:
        if not _take(lines.calls):
            return False
        fields, call = pickle.loads(_taken)  # noqa: S301  # from our own pool
        ticket = Ticket(*fields)
        begun = True
        outcome = run_pickled(ticket, call)
        answer = _pack(ticket, outcome)
    except BaseException as error:
        if _taken[0]:
            # Interrupted: nobody else knows of this call. Before it had begun, it may go to another.
            ticket = Ticket(*pickle.loads(_taken)[0])  # noqa: S301
            late = failed(ticket, time.monotonic(), error, pickled=True) if begun else None
            _bring_home(lines.outcomes, _pack(ticket, late))
        raise
    _bring_home(lines.outcomes, answer)
    return True


def _take(calls: int) -> bool:
    """Read one call; False if none came, or none will."""
    try:
        size = os.readv(calls, [_taken])
    except BlockingIOError:
        return False
    if size > len(RETURN):
        return True
    _taken[0] = 0
    return False


def _pack(ticket: Ticket, outcome: Outcome | None) -> bytes:
    return pickle.dumps((ticket.number, outcome and tuple(outcome)), pickle.HIGHEST_PROTOCOL)


def _bring_home(line: socket.socket, answer: bytes) -> None:
    try:
        line.sendall(LENGTH.pack(len(answer)))
        line.sendall(answer)
    except OSError:
        pass  # the pool has closed the channel, and knows what it left here
    except BaseException:  # noqa: BLE001  # interrupted; half an answer can be neither taken back nor ended
        os._exit(1)


def _connect(address: str) -> _Lines:
    """Find the channel at ``address``.

    Raises:
        OSError: It is not to be found, or not from here.
    """
    _forget_closed()
    outcomes = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        outcomes.settimeout(_WELCOME)
        outcomes.connect(address)
        # What a task starts is not to inherit it.
        _, (calls,), _, _ = socket.recv_fds(outcomes, 1, 1, socket.MSG_CMSG_CLOEXEC)
        outcomes.settimeout(None)
    except ValueError:
        outcomes.close()
        raise ConnectionResetError("the pool closes the channel") from None
    except BaseException:
        outcomes.close()
        raise
    _promise_goodbye()
    _lines[address] = _Lines(calls, outcomes)
    return _lines[address]


@functools.cache
def _promise_goodbye() -> None:
    # Worker processes leave without atexit callbacks; these are called all the same.
    Finalize(None, _say_goodbye, exitpriority=0)


def _say_goodbye() -> None:
    for lines in _lines.values():
        _bring_home(lines.outcomes, pickle.dumps((GOODBYE, None)))


def _forget_closed() -> None:
    """Let go of the channels that are no more, of which a shared backend may see many."""
    for address in [address for address in _lines if not Path(address).exists()]:
        _lines.pop(address).close()


def _after_fork() -> None:
    # What a task forks is no worker, and must not hold the lines of one open.
    _promise_goodbye.cache_clear()
    while _lines:
        _lines.popitem()[1].close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
