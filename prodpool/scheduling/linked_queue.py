"""A linked list for tasks, waiters and parked workers.

It is a plain structure: the dispatcher's lock guards it. `WorkerSet` says which of the tasks is next.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar


class Queueable(Protocol):
    """What may stand in a queue. Both are the queue's own links; ``prev`` is None outside of any queue."""

    prev: Any
    next: Any


T = TypeVar("T", bound=Queueable)


class LinkedQueue(Generic[T]):
    """A queue whose items can be removed from anywhere; every operation is O(1) but for `snapshot`.

    The items are linked to each other: ``prev`` is the one before (the queue itself, for the first),
    ``next`` the one after. So a discarded item leaves nothing behind that could keep it alive or be
    freed here, where a lock is held that a destructor of the application's may want; and a push makes
    nothing that could set off the garbage collector. ``length`` is the number of items waiting; a plain
    attribute, since ``len()`` costs a call on the hot path. ``last`` is the last item, the queue itself
    when there is none.

    Each change is a run of stores without a call in between, and what may want memory comes before the
    first: a signal handler or a failing allocation finds it either not begun or done. The dispatcher
    writes some of these runs out, where they are part of a longer one.
    """

    __slots__ = ("next", "last", "length")

    def __init__(self) -> None:
        # The first item: the queue stands before it as an item does.
        self.next: Any = None
        self.last: Any = self
        self.length = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[T]:
        return iter(self.snapshot())

    def push(self, item: T) -> None:
        """Add ``item`` at the end."""
        length = self.length + 1
        last = item.prev = self.last
        last.next = self.last = item
        self.length = length

    def pop(self) -> T | None:
        """Remove and return the first item; None when there is none."""
        item = self.first()
        if item is not None:
            self.discard(item)
        return item

    def discard(self, item: T) -> bool:
        """Remove ``item`` wherever it stands; False when it is not (any more) in the queue."""
        before = item.prev
        if before is None:
            return False
        length = self.length - 1
        after = before.next = item.next
        if after is None:
            self.last = before
        else:
            after.prev = before
            item.next = None
        item.prev = None
        self.length = length
        return True

    def first(self) -> T | None:
        """Return the first item and leave it there; None when there is none."""
        first: T | None = self.next
        return first

    def snapshot(self) -> list[T]:
        """Return all items in order and leave them there."""
        items: list[T] = []
        item = self.next
        while item is not None:
            items.append(item)
            item = item.next
        return items
