"""The messages between a pool and one of its worker processes, as they travel through a stream socket."""

from __future__ import annotations

import socket
import struct
from enum import IntEnum
from typing import NamedTuple

# Kind, number of the call, and how many bytes follow.
_HEADER = struct.Struct("<BQQ")
# Bytes that are read in one go.
_CHUNK = 1 << 16
# Seconds of the worker's clock at which the call began and ended, what the payload is, and the length of the
# stack that stands before it.
OUTCOME = struct.Struct("<ddBI")


class Kind(IntEnum):
    """What a message is."""

    # From the pool.
    CALL = 1
    CANCEL = 2
    DISCARD = 3  # no call before this one that has no credit will be made
    # From the worker.
    READY = 4  # its number is 1 if the process may be asked for its stacks
    START_FAILED = 5
    RESULT = 6
    DISCARDED = 7  # the calls that had no credit are thrown away
    TELEMETRY_ERROR = 8  # of the call whose result comes next: pickled, its sink and stack


class Payload(IntEnum):
    """What the outcome of a call carries."""

    PLAIN = 1  # a result that needs no care, pickled along with the message
    PICKLED = 2  # a result
    ERROR = 3
    EXPIRED = 4


class Frame(NamedTuple):
    """One message."""

    kind: int
    number: int
    body: bytes | memoryview


def frame(kind: Kind, number: int = 0, body: bytes = b"") -> bytes:
    """Return a message as it travels."""
    return _HEADER.pack(kind, number, len(body)) + body


def frame_header(kind: Kind, number: int, size: int) -> bytes:
    """Return what comes before ``size`` bytes that are sent apart."""
    return _HEADER.pack(kind, number, size)


class FrameReader:
    """Reads messages from a socket, and keeps none that it has returned.

    Args:
        connection: The socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._chunk = memoryview(bytearray(_CHUNK))
        self._received = bytearray()
        self._at = 0
        # A large message that is being received: kind, number, body and how much of that is there.
        self._large: tuple[int, int, memoryview] | None = None
        self._filled = 0

    def next(self) -> Frame | None:
        """Return the first message that was received; None when there is none as a whole."""
        if self._large is not None:
            if self._filled < len(self._large[2]):
                return None
            large, self._large = Frame(*self._large), None
            return large
        received, at = self._received, self._at
        begin = at + _HEADER.size
        if len(received) < begin:
            return None
        kind, number, size = _HEADER.unpack_from(received, at)
        if len(received) < begin + size:
            if size > _CHUNK:
                self._receive_large(kind, number, begin, size)
            return None
        self._at = begin + size
        return Frame(kind, number, bytes(received[begin : self._at]))

    def fill(self, flags: int = 0) -> None:
        """Read what there is, and wait for it if there is nothing (``flags``: those of ``recv``).

        Raises:
            BlockingIOError: There is nothing, with ``MSG_DONTWAIT``.
            EOFError: The other side has gone.
            OSError: Likewise.
        """
        if self._large is not None:
            size = self._connection.recv_into(self._large[2][self._filled :], 0, flags)
            self._filled += size
        else:
            size = self._connection.recv_into(self._chunk, 0, flags)
            if self._at:
                # Here and not for each message: it moves what is left.
                del self._received[: self._at]
                self._at = 0
            self._received += self._chunk[:size]
        if not size:
            raise EOFError

    def _receive_large(self, kind: int, number: int, begin: int, size: int) -> None:
        """Give a large message memory of its own, into which it is read without another copy."""
        body = memoryview(bytearray(size))
        begun = self._received[begin:]
        body[: len(begun)] = begun
        self._filled = len(begun)
        self._large = kind, number, body
        self._received.clear()
        self._at = 0
