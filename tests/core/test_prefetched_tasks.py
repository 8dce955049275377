"""Tasks that a worker is given ahead of the one that it runs: the roster's steps, one by one.

Whole runs of them are in test_conservation.py, beside a model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

import pytest

from prodpool import Reason
from prodpool.scheduling.dispatcher import Admission, Dispatcher
from prodpool.scheduling.linked_queue import LinkedQueue
from prodpool.scheduling.wait_queue import ThreadWaiter
from prodpool.scheduling.worker_set import WorkerSet
from prodpool.task.future import PoolFuture
from prodpool.task.task import Task, TaskOptions
from prodpool.telemetry.counters import PoolCounters
from tests.helpers.inside import AheadWorker


class Stage:
    """A dispatcher whose one worker has begun, and runs a task; ``queued`` others wait."""

    def __init__(self, queued: int, *, workers: int = 1) -> None:
        self.dispatcher = Dispatcher(
            workers=workers, queue_capacity=10, counters=PoolCounters((1.0,)), now=lambda: 0.0
        )
        self.worker_set: WorkerSet = self.dispatcher.worker_set
        self.queue: LinkedQueue[Task] = self.dispatcher.queue
        self.workers = [self.worker() for _ in range(workers)]
        self.first = self.workers[0]
        self.tasks = [self.submit() for _ in range(queued)]

    def worker(self) -> AheadWorker:
        """Return a worker that has come up and was given a task."""
        worker = AheadWorker()
        assert self.dispatcher.add_starting(worker)
        self.submit()
        assert self.dispatcher.mark_started(worker) is not None
        return worker

    def task(self, **options: Any) -> Task:
        """Return a new task."""
        task = Task(int, (), {}, Context(), 0.0, TaskOptions(**options))
        home: Any = self
        task.future = PoolFuture(home, task)
        return task

    def submit(self, **options: Any) -> Task:
        """Submit one task; return it."""
        task = self.task(**options)
        assert self.dispatcher.try_admit(task, may_start=False) is Admission.ADMITTED
        return task

    def take(self, most: int = 1) -> list[Task]:
        """Have the first worker given ``most`` tasks; return all that it has ahead."""
        assert self.first.ahead is not None
        had = len(self.first.ahead)
        assert self.dispatcher.assign_ahead(self.first, most) == len(self.first.ahead) - had
        return list(self.first.ahead)

    def take_back(self, count: int) -> None:
        """Put the last ``count`` tasks of the first worker back: it has not begun them."""
        self.first.unbegun = count
        self.dispatcher.requeue_ahead(self.first)

    def counts(self) -> tuple[int, int, int]:
        """Return how many tasks wait, were given to workers, and are ahead among those."""
        marks = self.worker_set.running, self.worker_set.ahead
        self.worker_set.recount()
        assert marks == (self.worker_set.running, self.worker_set.ahead), "the numbers follow from the marks"
        return self.queue.length, *marks

    def waiting(self) -> list[Task]:
        """Return what waits, in order; see that it is linked as it has to be for the next push."""
        waiting = self.queue.snapshot()
        assert self.queue.last is (waiting[-1] if waiting else self.queue)
        assert [task.prev for task in waiting] == [self.queue, *waiting][: len(waiting)]
        return waiting


def test_take_ahead() -> None:
    """What was queued first is given first, counts as running from then on, and is not cancelled any more."""
    stage = Stage(queued=4)
    assert stage.take(3) == stage.tasks[:3]
    assert stage.waiting() == stage.tasks[3:]
    assert stage.counts() == (1, 4, 3)
    for task in stage.tasks[:3]:
        assert (task.prev, task.next, task.future.running()) == (None, None, True)
        assert not stage.dispatcher.discard(task, Reason.CANCELLED)
    assert stage.take(5) == stage.tasks
    assert stage.waiting() == []
    assert stage.take(5) == stage.tasks
    assert stage.counts() == (0, 5, 4)


def test_what_is_never_given_ahead() -> None:
    """Nothing while the pool is paused or has loops too many; and no task with a limit, nor one behind it."""
    stage = Stage(queued=1, workers=2)
    stage.submit(timeout=1.0)
    stage.submit()
    stage.dispatcher.pause()
    assert stage.take(5) == []
    stage.dispatcher.resume()
    stage.dispatcher.resize(1)
    assert stage.take(5) == []
    stage.dispatcher.resize(2)
    assert stage.take(5) == stage.tasks
    assert stage.counts() == (2, 3, 1)


def test_promote() -> None:
    """The worker goes on with what it was given first, while the queue and the count of what runs stay."""
    stage = Stage(queued=3)
    stage.take(2)
    for left, task in ((1, stage.tasks[0]), (0, stage.tasks[1])):
        with stage.dispatcher.lock:
            stage.worker_set.release(stage.first)
            assert stage.dispatcher.next_task(stage.first) is task
        assert (stage.first.task, stage.first.counts_as_running) == (task, True)
        assert stage.counts() == (1, left + 1, left)
    assert stage.waiting() == stage.tasks[2:]


def test_whoever_stands_in_line_is_let_in() -> None:
    """Who stands in line is let in by a worker that goes on with what it has ahead, even if all is paused."""
    stage = Stage(queued=10)
    stage.take()
    stage.dispatcher.pause()
    waiter = ThreadWaiter(stage.task())
    assert stage.dispatcher.try_admit(waiter.task, waiter) is Admission.WAITING
    with stage.dispatcher.lock:
        stage.worker_set.release(stage.first)
        stage.dispatcher.counters.ok += 1
        assert stage.dispatcher.next_task(stage.first) is stage.tasks[0]
    stage.dispatcher.notify_waiters()
    assert waiter.admitted
    assert stage.waiting() == [*stage.tasks[1:], waiter.task]


@pytest.mark.parametrize("queued", [2, 5])
def test_give_back(queued: int) -> None:
    """The last that was given comes first into the queue again, so that the order is what it was."""
    stage = Stage(queued=queued)
    stage.take(2)
    stage.take_back(1)
    assert stage.waiting() == stage.tasks[1:]
    assert stage.counts() == (queued - 1, 2, 1)
    stage.take_back(1)
    assert stage.waiting() == stage.tasks
    assert stage.counts() == (queued, 1, 0)
    assert not any(task.future.running() for task in stage.tasks)
    # It is queued as any other: something comes after it, and it can be cancelled.
    assert stage.dispatcher.discard(stage.tasks[0], Reason.CANCELLED)
    last = stage.submit()
    assert stage.waiting() == [*stage.tasks[1:], last]


def test_given_back_to_whoever_is_free() -> None:
    """What is given back goes to workers that are parked, first of all."""
    stage = Stage(queued=3, workers=2)
    stage.take(3)
    other = stage.workers[1]
    with stage.dispatcher.lock:
        stage.worker_set.release(other)
        assert stage.dispatcher.next_task(other) is None
    stage.take_back(2)
    assert other.task is stage.tasks[1]
    assert other.wake.acquire(blocking=False)
    assert stage.waiting() == stage.tasks[2:]
    assert stage.counts() == (1, 3, 1)


def test_a_deadline_of_what_is_given_back_is_kept() -> None:
    """A task that expires is looked for again once it is back in the queue."""
    stage = Stage(queued=0)
    task = stage.submit()
    task.expires_at = 5.0
    stage.take()
    assert stage.dispatcher.expired(6.0) == []
    stage.take_back(1)
    assert stage.dispatcher.expired(4.0) == []
    assert stage.dispatcher.expired(6.0) == [task]


def test_part() -> None:
    """All that a lost worker has not begun is queued again, its own task first; the worker is no more."""
    stage = Stage(queued=3)
    own = stage.first.task
    assert own is not None
    stage.take(2)
    stage.dispatcher.remove_lost(stage.first)
    assert stage.waiting() == [own, *stage.tasks]
    assert stage.counts() == (4, 0, 0)
    assert not own.future.running()
    assert stage.worker_set.workers == set()
    assert (stage.first.task, stage.first.counts_as_running, list(stage.first.ahead or ())) == (
        None,
        False,
        [],
    )


def test_part_of_a_parked_worker() -> None:
    """One that had nothing to do is struck out of those that are free as well."""
    stage = Stage(queued=0)
    with stage.dispatcher.lock:
        stage.worker_set.release(stage.first)
        assert stage.dispatcher.next_task(stage.first) is None
    stage.dispatcher.remove_lost(stage.first)
    assert (stage.worker_set.parked.length, stage.worker_set.workers) == (0, set())


def test_shown_as_queued() -> None:
    """What waits behind another task is queued to whoever looks; a pool made smaller runs what it ran."""
    stage = Stage(queued=4, workers=3)
    stage.take(3)
    with stage.dispatcher.lock:
        there = stage.dispatcher.occupancy()
    assert (there.queued, there.running) == (4, 3)
    stage.dispatcher.resize(1)
    with stage.dispatcher.lock:
        there = stage.dispatcher.occupancy()
    assert (there.queued, there.running) == (4, 3)


class Meddled(deque[Task]):
    """What a worker has ahead, where something happens on top of an ``append``."""

    meddle: Callable[[], object]

    def append(self, task: Task, /) -> None:
        super().append(task)
        self.meddle()


def test_cancelled_by_a_finalizer() -> None:
    """A finalizer that cancels the very task which is being given has its way; the next is given instead."""
    stage = Stage(queued=3)
    stage.first.ahead = ahead = Meddled()
    cancelled = stage.tasks[0]
    ahead.meddle = lambda: stage.dispatcher.discard(cancelled, Reason.CANCELLED)
    assert stage.take(2) == stage.tasks[1:]
    assert cancelled.dropped is Reason.CANCELLED
    assert stage.waiting() == []
    assert stage.counts() == (0, 3, 2)


def test_submitted_by_a_finalizer() -> None:
    """One that submits meanwhile finds its task in the queue, and in the numbers."""
    stage = Stage(queued=1)
    stage.first.ahead = ahead = Meddled()
    others: list[Task] = []
    ahead.meddle = lambda: others.append(stage.submit())
    assert stage.take(1) == stage.tasks
    assert stage.waiting() == others
    assert stage.counts() == (1, 2, 1)


class Full(deque[Task]):
    """What a worker has ahead, where there is no memory for more."""

    def append(self, _task: Task, /) -> None:
        raise MemoryError

    def appendleft(self, _task: Task, /) -> None:
        raise MemoryError


def test_without_memory() -> None:
    """A step for which there is no memory has changed nothing."""
    stage = Stage(queued=2)
    stage.first.ahead = Full()
    own = stage.first.task
    with pytest.raises(MemoryError):
        stage.dispatcher.assign_ahead(stage.first, 1)
    with pytest.raises(MemoryError):
        stage.dispatcher.remove_lost(stage.first)
    assert (stage.first.task, stage.first.counts_as_running, stage.worker_set.workers) == (
        own,
        True,
        {stage.first},
    )
    assert stage.waiting() == stage.tasks
    assert stage.counts() == (2, 1, 0)


def test_let_in_for_whoever_is_free() -> None:
    """A task that gets in when a worker goes on to the next of its own is run by another that is parked."""
    stage = Stage(queued=1, workers=2)
    stage.dispatcher.queue_capacity = 1
    other = stage.workers[1]
    stage.take()
    with stage.dispatcher.lock:
        stage.worker_set.release(other)
        assert stage.dispatcher.next_task(other) is None
        stage.submit()
    waiter = ThreadWaiter(stage.task())
    assert other.task is not None
    with stage.dispatcher.lock:
        stage.worker_set.release(other)
        stage.dispatcher.queue_capacity = 0
        assert stage.dispatcher.next_task(other) is None
    assert stage.dispatcher.try_admit(waiter.task, waiter) is Admission.WAITING
    stage.dispatcher.queue_capacity = 1
    with stage.dispatcher.lock:
        stage.worker_set.release(stage.first)
        assert stage.dispatcher.next_task(stage.first) is stage.tasks[0]
    assert other.task is waiter.task
    assert not stage.queue.length
