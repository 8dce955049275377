"""The pool's ends of the sockets that its calls and their outcomes travel through."""

from __future__ import annotations

import os
import socket
import struct
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from prodpool.workers.serving import LARGEST, RETURN

# Only Linux has sockets that keep messages apart and in order, and that several processes may wait for.
POSSIBLE = sys.platform == "linux"


class Ends:
    """The pool's ends of all the sockets of one channel.

    Args:
        address: Path of the socket that workers find it by.
        linger: Seconds that a worker waits for a call.

    Attributes:
        listener: Where workers come to for the first time.
        calls: What is written here is read by one of them.
        lines: Where each of them writes.

    Raises:
        OSError: There is no socket to be had, none that is large enough, or none with that path.
    """

    def __init__(self, address: str, linger: float) -> None:
        self._address = address
        self.lines: set[socket.socket] = set()
        self.calls, self._taken = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _open.add(self)
        try:
            seconds, rest = divmod(linger, 1.0)
            patience = struct.pack("@ll", int(seconds), int(rest * 1e6))
            self._taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
            _check_room(self.calls)
            self.calls.settimeout(0.0)
            self.listener.settimeout(0.0)
            self.listener.bind(address)
            os.chmod(address, 0o600)  # noqa: PTH101  # before anybody can connect
            self.listener.listen(socket.SOMAXCONN)
        except BaseException:
            self.drop()
            raise

    def accept(self) -> socket.socket | None:
        """Let in who waits; None if it has gone again.

        Raises:
            OSError: There is no descriptor for it; it still waits.
        """
        try:
            line, _ = self.listener.accept()
        except (BlockingIOError, ConnectionError):
            return None
        line.settimeout(0.0)
        try:
            socket.send_fds(line, [b"\0"], [self._taken.fileno()])
        except OSError:
            line.close()
            return None
        self.lines.add(line)
        return line

    def read_back(self) -> list[bytes]:
        """Return the calls that nobody has taken."""
        packets: list[bytes] = []
        with suppress(OSError):
            while packet := self._taken.recv(LARGEST, socket.MSG_DONTWAIT):
                packets.append(packet)
        return [packet for packet in packets if packet != RETURN]

    def hang_up(self) -> None:
        """Have workers that wait for a call give themselves back, and let no other in."""
        with suppress(OSError):
            Path(self._address).unlink()
        with suppress(OSError):
            # Not just closed: a forked worker may hold another end of it.
            self.calls.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close everything."""
        self.hang_up()
        with suppress(OSError):
            while True:  # who has come too late
                self.listener.accept()[0].close()
        self.drop()

    def drop(self) -> None:
        """Close what this process has open, and leave the channel to whoever else has."""
        for end in (self.listener, self.calls, self._taken, *self.lines):
            end.close()
        self.lines.clear()


def _check_room(calls: socket.socket) -> None:
    if calls.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * LARGEST:
        raise OSError("the system's socket buffers are too small for our messages")


_open: weakref.WeakSet[Ends] = weakref.WeakSet()


def _after_fork() -> None:
    # A forked worker would hold open for ever what the pool closes.
    for ends in list(_open):
        ends.drop()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
