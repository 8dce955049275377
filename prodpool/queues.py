"""In which order tasks run. A queue is a plain structure: the dispatcher's lock guards it."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar


class Queueable(Protocol):
    """What may stand in a queue: ``queued`` is the queue's own mark, True while it stands there."""

    queued: bool


T = TypeVar("T", bound=Queueable)


class FifoQueue(Generic[T]):
    """First in, first out; every operation O(1) (discard: amortised).

    A discarded item stays in the deque as a tombstone. Tombstones are swept once they outnumber the
    living, so a pool whose workers hang while callers submit and cancel does not grow. ``length`` is
    the number of items waiting; a plain attribute, since ``len()`` costs a call on the hot path.
    """

    __slots__ = ("_items", "length")

    SWEEP_FROM = 64

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def push(self, item: T) -> None:
        """Add ``item`` at the end."""
        item.queued = True
        self._items.append(item)
        self.length += 1

    def pop(self) -> T | None:
        """Remove and return the first item; None when there is none."""
        if not self.length:
            return None
        items = self._items
        while True:
            item = items.popleft()
            if item.queued:
                item.queued = False
                self.length -= 1
                return item

    def discard(self, item: T) -> bool:
        """Remove ``item`` wherever it stands; False when it is not (any more) in the queue."""
        if not item.queued:
            return False
        item.queued = False
        self.length -= 1
        tombstones = len(self._items) - self.length
        if tombstones > self.SWEEP_FROM and tombstones > self.length:
            self._items = deque(item for item in self._items if item.queued)
        return True

    def first(self) -> T | None:
        """Return the first item and leave it there; None when there is none."""
        items = self._items
        while items:
            if items[0].queued:
                return items[0]
            items.popleft()
        return None

    def drain(self) -> list[T]:
        """Remove and return all items in order."""
        drained = [item for item in self._items if item.queued]
        for item in drained:
            item.queued = False
        self._items.clear()
        self.length = 0
        return drained

    def snapshot(self) -> list[T]:
        """Return all items in order and leave them there."""
        return [item for item in self._items if item.queued]
