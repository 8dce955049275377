"""The queue: first in, first out, with discards anywhere that leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from prodpool.scheduling.linked_queue import LinkedQueue


class Item:
    """Anything that may stand in a queue."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.prev: Any = None
        self.next: Any = None

    def __repr__(self) -> str:
        return f"Item({self.number})"


class QueueMachine(RuleBasedStateMachine):
    """Drives a `LinkedQueue` beside a plain list that does the same by brute force."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: LinkedQueue[Item] = LinkedQueue()
        self.model: list[Item] = []
        self.gone: list[Item] = []

    @initialize(count=st.integers(0, 200))
    def fill(self, count: int) -> None:
        for _ in range(count):
            self.push()

    @rule()
    def push(self) -> None:
        item = Item(len(self.model) + len(self.gone))
        self.queue.push(item)
        self.model.append(item)

    @rule()
    def pop(self) -> None:
        expected = self.model.pop(0) if self.model else None
        assert self.queue.pop() is expected
        if expected is not None:
            self.gone.append(expected)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        item = self.model.pop(data.draw(st.integers(0, len(self.model) - 1)))
        assert self.queue.discard(item)
        self.gone.append(item)

    @precondition(lambda self: self.model)
    @rule(keep=st.integers(0, 3))
    def discard_all_but(self, keep: int) -> None:
        while len(self.model) > keep:
            item = self.model.pop(0)
            assert self.queue.discard(item)
            self.gone.append(item)

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def discard_what_is_gone(self, data: st.DataObject) -> None:
        assert not self.queue.discard(data.draw(st.sampled_from(self.gone)))

    @precondition(lambda self: self.gone)
    @rule()
    def push_again(self) -> None:
        # The dispatcher never does, but nothing about the queue forbids an item that has left for good.
        item = Item(-1)
        self.queue.push(item)
        assert self.queue.discard(item)
        self.gone.append(item)

    @invariant()
    def agrees(self) -> None:
        assert self.queue.length == len(self.queue) == len(self.model)
        assert self.queue.snapshot() == self.model
        assert self.queue.first() is (self.model[0] if self.model else None)
        assert all(item.prev for item in self.model)
        assert not any(item.prev for item in self.gone)

    @invariant()
    def lets_go(self) -> None:
        assert all(item.next is None for item in self.gone)


# No clock is to decide: neither on an example, nor on how fast they are made.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
QueueMachine.TestCase.settings = settings(UNTIMED, max_examples=60, stateful_step_count=40)
TestQueueAgainstModel = QueueMachine.TestCase


def queue_of(count: int) -> tuple[LinkedQueue[Item], list[Item]]:
    queue: LinkedQueue[Item] = LinkedQueue()
    items = [Item(number) for number in range(count)]
    for item in items:
        queue.push(item)
    return queue, items


def test_empty() -> None:
    """An empty queue has no first item and gives nothing out."""
    queue: LinkedQueue[Item] = LinkedQueue()
    assert (queue.pop(), queue.first(), queue.snapshot(), len(queue)) == (
        None,
        None,
        [],
        0,
    )


def test_first_leaves_the_item() -> None:
    """Looking at the first item, past discarded ones, does not remove it."""
    queue, items = queue_of(3)
    queue.discard(items[0])
    assert queue.first() is items[1]
    assert [queue.pop(), queue.pop(), queue.pop()] == [items[1], items[2], None]


@UNTIMED
@given(st.lists(st.booleans(), max_size=400))
def test_discarding_keeps_the_order(discards: list[bool]) -> None:
    """Whichever items are discarded, the others come out in the order in which they went in."""
    queue, items = queue_of(len(discards))
    for item, gone in zip(items, discards, strict=True):
        if gone:
            queue.discard(item)
    kept = [item for item, gone in zip(items, discards, strict=True) if not gone]
    assert [queue.pop() for _ in range(len(queue))] == kept


def test_a_push_makes_nothing_to_collect() -> None:
    """The collector, and with it anybody's destructor, is not set off under the lock that guards a queue."""
    queue, items = queue_of(0)[0], [Item(number) for number in range(5_000)]
    gc.collect()
    before = [each["collections"] for each in gc.get_stats()]
    for item in items:
        queue.push(item)
    assert [each["collections"] for each in gc.get_stats()] == before


def test_a_discarded_item_is_not_kept() -> None:
    """What was discarded is gone, however long it takes until the queue gets there."""
    queue, items = queue_of(3)
    gone = weakref.ref(items[1])
    assert queue.discard(items.pop(1))
    assert gone() is None
    assert queue.snapshot() == items
