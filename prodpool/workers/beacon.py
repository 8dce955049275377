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

_SLOT = struct.Struct("<Qqd")
_REST = struct.Struct("<qd")
_NUMBER = struct.Struct("<Q")


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
            seen, pid, started = _SLOT.unpack_from(self._map, slot * _SLOT.size)
        except ValueError:  # closed
            return None
        return Sighting(pid, started) if seen == number else None

    def close(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            Path(self.path).unlink()


# The worker's side: the files this process has mapped, None for one that it cannot see.
_mapped: dict[str, mmap.mmap | None] = {}


def mark(path: str | None, slot: int, number: int, started: float) -> None:
    """Say that this process began the task handed over as ``number`` at ``started``."""
    if path is None:
        return
    if path not in _mapped:
        _mapped[path] = _map(path)
    where = _mapped[path]
    if where is not None:
        at = slot * _SLOT.size
        _REST.pack_into(where, at + _NUMBER.size, os.getpid(), started)
        _NUMBER.pack_into(where, at, number)


def _map(path: str) -> mmap.mmap | None:
    try:
        with open(path, "r+b") as file:  # noqa: PTH123
            return mmap.mmap(file.fileno(), 0)
    except (OSError, ValueError):
        return None
