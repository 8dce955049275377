"""In which order tasks run. A queue is a plain structure: the dispatcher's lock guards it."""

from __future__ import annotations

from collections import deque
from typing import Any, Generic, Protocol, TypeVar


class Queueable(Protocol):
    """What may stand in a queue. ``queued`` is the queue's own mark: not None while it stands there."""

    queued: list[Any] | None


T = TypeVar("T", bound=Queueable)


class FifoQueue(Generic[T]):
    """First in, first out; every operation O(1) (discard: amortised).

    Each item stands in a cell of its own, a list of one. A discarded item leaves its cell behind, empty:
    it must keep nothing alive, and nothing may be freed here, where a lock is held that a destructor of
    the application's may want. Empty cells are swept once they outnumber the others, so a pool whose
    workers hang while callers submit and cancel does not grow. ``length`` is the number of items
    waiting; a plain attribute, since ``len()`` costs a call on the hot path.
    """

    __slots__ = ("_cells", "length")

    SWEEP_FROM = 64

    def __init__(self) -> None:
        self._cells: deque[list[T]] = deque()
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def push(self, item: T) -> None:
        """Add ``item`` at the end."""
        cell = item.queued = [item]
        self._cells.append(cell)
        self.length += 1

    def pop(self) -> T | None:
        """Remove and return the first item; None when there is none."""
        if not self.length:
            return None
        cells = self._cells
        while True:
            cell = cells.popleft()
            if cell:
                item = cell[0]
                item.queued = None
                self.length -= 1
                return item

    def discard(self, item: T) -> bool:
        """Remove ``item`` wherever it stands; False when it is not (any more) in the queue."""
        cell = item.queued
        if cell is None:
            return False
        cell.clear()
        item.queued = None
        self.length -= 1
        empty = len(self._cells) - self.length
        if empty > self.SWEEP_FROM and empty > self.length:
            self._cells = deque(cell for cell in self._cells if cell)
        return True

    def first(self) -> T | None:
        """Return the first item and leave it there; None when there is none."""
        cells = self._cells
        while cells:
            if cells[0]:
                return cells[0][0]
            cells.popleft()
        return None

    def drain(self) -> list[T]:
        """Remove and return all items in order."""
        drained = self.snapshot()
        for item in drained:
            item.queued = None
        self._cells.clear()
        self.length = 0
        return drained

    def snapshot(self) -> list[T]:
        """Return all items in order and leave them there."""
        return [cell[0] for cell in self._cells if cell]
