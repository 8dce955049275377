"""What is known of a task while it runs in another process of this host: since when, and in which one.

A small file that both map into memory, with a slot for each task that may be handed over at a time.
Marking costs half a microsecond. The worker writes the hand-over's number last, so a slot that bears
the number looked for is complete; one that does not belongs to an earlier task.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

# Number of the hand-over, pid, second of its start; and the number of the one that is asked to end.
_SLOT = struct.Struct("<QqdQ")
_REST = struct.Struct("<qd")
_NUMBER = struct.Struct("<Q")
_ASKED_AT = _SLOT.size - _NUMBER.size


class Sighting(NamedTuple):
    """A task seen running: the worker's process, and the second of its monotonic clock it began at."""

    pid: int
    started: float


class Beacon:
    """The pool's side of the file. It is removed by `close`, or at the latest with the temporary folder."""

    def __init__(self, slots: int) -> None:
        handle, name = tempfile.mkstemp(prefix="prodpool-")
        try:
            os.ftruncate(handle, slots * _SLOT.size)
            self._map = mmap.mmap(handle, slots * _SLOT.size)
        finally:
            os.close(handle)
        self.path = name
        self.slots = slots

    def look(self, slot: int, number: int) -> Sighting | None:
        """Return what is known of the task handed over as ``number``; None while it has not begun."""
        try:
            seen, pid, started, _ = _SLOT.unpack_from(self._map, slot * _SLOT.size)
        except ValueError:  # closed
            return None
        return Sighting(pid, started) if seen == number else None

    def ask(self, slot: int, number: int) -> None:
        """Ask the task handed over as ``number`` to end."""
        with contextlib.suppress(ValueError):  # closed
            _NUMBER.pack_into(self._map, slot * _SLOT.size + _ASKED_AT, number)

    def close(self) -> None:
        """Remove the file."""
        self._map.close()
        with contextlib.suppress(OSError):
            Path(self.path).unlink()


# The worker's side: the files this process has mapped, None for one that it cannot see.
_mapped: dict[str, mmap.mmap | None] = {}


def mark(path: str, slot: int, number: int, started: float) -> None:
    """Say that this process began the task handed over as ``number`` at ``started``."""
    where = _map(path)
    if where is not None:
        at = slot * _SLOT.size
        _REST.pack_into(where, at + _NUMBER.size, os.getpid(), started)
        _NUMBER.pack_into(where, at, number)


def is_asked(path: str, slot: int, number: int) -> bool:
    """Tell whether the pool wants the task handed over as ``number`` to end."""
    where = _map(path)
    if where is None:
        return False
    (asked,) = _NUMBER.unpack_from(where, slot * _SLOT.size + _ASKED_AT)
    return bool(asked == number)


def _map(path: str) -> mmap.mmap | None:
    if path not in _mapped:
        _forget_closed()
        _mapped[path] = _open(path)
    return _mapped[path]


def _forget_closed() -> None:
    """Let go of the files of pools that are no more, of which a shared backend may see many."""
    for path in [path for path in _mapped if not Path(path).exists()]:
        where = _mapped.pop(path)
        if where is not None:
            where.close()


def _open(path: str) -> mmap.mmap | None:
    try:
        with open(path, "r+b") as file:  # noqa: PTH123
            return mmap.mmap(file.fileno(), 0)
    except (OSError, ValueError):
        return None
