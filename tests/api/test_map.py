"""Promise 3: `map` as the standard library has it, but lazy, bounded and patient."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, Reason
from prodpool.concurrency.background_thread import background_thread
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until, until_collected
from tests.support import MakePool


class Counted:
    """An endless iterator that counts what was taken from it."""

    def __init__(self) -> None:
        self.taken = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.taken += 1
        return self.taken - 1


def through_pool(pool: InstrumentedPool) -> Callable[..., Iterator[object]]:
    return pool.map


def through_view(pool: InstrumentedPool) -> Callable[..., Iterator[object]]:
    return pool.options(task="mapped", wait=0).map


both = pytest.mark.parametrize("through", [through_pool, through_view])
Through = Callable[[InstrumentedPool], Callable[..., Iterator[object]]]


@both
def test_order(make_pool: MakePool, through: Through) -> None:
    """Results come in the order of the arguments, in whichever order the calls end."""
    pool, gates = make_pool(3), [BlockingTask(), BlockingTask(), BlockingTask()]
    results = through(pool)(lambda gate, value: gate(value), gates, "abc")
    for gate in reversed(gates):
        gate.wait_started()
        gate.release()
    assert list(results) == ["a", "b", "c"]


@both
@pytest.mark.parametrize("chunksize", [1, 2, 1000])
def test_the_shortest_iterable_ends_it(make_pool: MakePool, through: Through, chunksize: int) -> None:
    """Several iterables are read side by side up to the end of the shortest; chunks change nothing."""
    results = through(make_pool(2))(pow, itertools.count(), [2, 3, 4], chunksize=chunksize)
    assert list(results) == [0, 1, 16]


@pytest.mark.parametrize(
    "iterables", [([],), ([], itertools.count()), ()], ids=["empty", "one empty", "none"]
)
def test_nothing_to_do(make_pool: MakePool, iterables: tuple[object, ...]) -> None:
    """Without arguments there are no calls and no results."""
    pool = make_pool(1)
    assert list(pool.map(str, *iterables)) == []  # type: ignore[arg-type]
    assert pool.stats().submitted == 0


@both
def test_an_exception_comes_in_its_turn(make_pool: MakePool, through: Through) -> None:
    """A call that fails raises where its result would be; the results end there."""
    results = through(make_pool(1))(divmod, [6, 7, 8], [2, 0, 4])
    assert next(results) == (3, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_a_failing_iterable(make_pool: MakePool) -> None:
    """An iterable that raises while it is read raises out of map, and what was queued is cancelled."""

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    pool, gate = make_pool(1), BlockingTask()
    pool.submit(gate)
    gate.wait_started()
    with pytest.raises(LookupError, match="no more"):
        list(pool.map(str, broken()))
    gate.release()
    assert pool.stats().dropped[Reason.CANCELLED] == 1


@both
@pytest.mark.parametrize("timeout", [0, 0.01, -1])
def test_timeout(make_pool: MakePool, gate: BlockingTask, through: Through, timeout: float) -> None:
    """Once the timeout has passed reading raises TimeoutError, and what has not begun is cancelled."""
    pool = make_pool(1)
    results = through(pool)(lambda _: gate(), range(3), timeout=timeout)
    gate.wait_started()
    with pytest.raises(TimeoutError):
        next(results)
    stats = pool.stats()
    assert (stats.queued, stats.dropped[Reason.CANCELLED]) == (0, 2)


@both
@pytest.mark.parametrize("read", [0, 1], ids=["unread", "begun"])
def test_closing_cancels_what_has_not_begun(
    make_pool: MakePool, gate: BlockingTask, through: Through, read: int
) -> None:
    """Closing the iterator cancels queued calls, lets the running one be, and reads no further."""
    pool, source = make_pool(1, queue_capacity=3), Counted()
    results = through(pool)(lambda number: number < read or gate(), source)
    for _ in range(read):
        next(results)
    gate.wait_started()
    taken = source.taken
    results.close()  # type: ignore[attr-defined]
    stats = pool.stats()
    assert (stats.queued, stats.running, stats.dropped[Reason.CANCELLED]) == (0, 1, 3 - read)
    assert source.taken == taken
    assert list(results) == []


@both
def test_an_iterator_that_is_dropped_cancels_as_well(
    make_pool: MakePool, gate: BlockingTask, through: Through
) -> None:
    """Letting go of an iterator that was begun does what closing it does."""
    pool = make_pool(1, queue_capacity=3)
    first = BlockingTask()
    first.release()
    gates = itertools.chain([first], itertools.repeat(gate))
    results = through(pool)(lambda each: each(), gates)
    next(results)
    del results
    until_collected(lambda: pool.stats().queued == 0)


def test_results_that_nobody_reads(make_pool: MakePool) -> None:
    """map() begins at once: calls are made also when nobody ever asks for a result."""
    done = threading.Semaphore(0)
    results = make_pool(1).map(lambda _: done.release(), range(3))
    for _ in range(3):
        assert done.acquire(timeout=PATIENCE)
    del results


@pytest.mark.parametrize(
    ("buffersize", "ahead"), [(1, 1), (2, 2), (5, 5), (6, 6), (7, 6), (100, 6), (None, 6)], ids=str
)
@both
def test_lazy(
    make_pool: MakePool, gate: BlockingTask, through: Through, buffersize: int | None, ahead: int
) -> None:
    """An endless iterator is read exactly as far as buffersize and the pool's places allow."""
    pool, source = make_pool(2, queue_capacity=4), Counted()
    results = through(pool)(lambda _: gate(), source, buffersize=buffersize)
    assert source.taken == ahead
    gate.release()
    for read in range(1, 20):
        next(results)
        # One more may be taken for each result that was read, and none beyond.
        assert source.taken in {ahead + read - 1, ahead + read}


def test_an_iterable_fed_by_the_results(make_pool: MakePool) -> None:
    """With buffersize=1 an iterable may be made from the results themselves: nothing is read too early."""
    results: Iterator[int]
    known = [1]

    def doubled() -> Iterator[int]:
        for index in itertools.count():
            yield known[index]

    results = make_pool(1).map(lambda number: 2 * number, doubled(), buffersize=1)
    for result in itertools.islice(results, 5):
        known.append(result)  # noqa: PERF402  # the iterable reads it
    assert known == [1, 2, 4, 8, 16, 32]


@both
def test_more_calls_than_places(make_pool: MakePool, through: Through) -> None:
    """A pool that rejects is no obstacle: map waits for slots, and no refusal is counted."""
    pool = make_pool(1, queue_capacity=1, overload="reject")
    assert list(through(pool)(abs, range(200))) == list(range(200))
    stats = pool.stats()
    assert (stats.submitted, stats.offered) == (200, 200)


@pytest.mark.parametrize("overload", ["reject", "block", "caller_runs"])
def test_a_pool_full_of_others(make_pool: MakePool, gate: BlockingTask, overload: str) -> None:
    """In a pool that is full of others' tasks map submits nothing, holds one call and waits for a slot."""
    pool, source = make_pool(1, queue_capacity=1, overload=overload), Counted()
    others = pool.submit(gate), pool.submit(gate)
    gate.wait_started()
    results = pool.map(str, source)
    assert source.taken <= 1
    assert pool.stats().submitted == 2
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(next(results)))
    reader.start()
    until(lambda: pool._engine.dispatcher.waiters.length)
    gate.release()
    reader.join(PATIENCE)
    assert read == ["0"]
    assert pool.stats().dropped[Reason.FULL] == 0
    results.close()  # type: ignore[attr-defined]
    assert all(other.done() or other.result(PATIENCE) is None for other in others)


def test_timeout_while_waiting_for_a_slot(make_pool: MakePool, gate: BlockingTask) -> None:
    """The timeout also bounds the wait for a slot."""
    pool = make_pool(1, queue_capacity=0)
    pool.submit(gate)
    gate.wait_started()
    with pytest.raises(TimeoutError):
        next(pool.map(str, [1], timeout=0.01))


def test_from_inside_a_task(make_pool: MakePool) -> None:
    """A task may map over its own pool, even if that has but one worker."""
    pool = make_pool(1, queue_capacity=2)
    assert pool.submit(lambda: list(pool.map(str, range(10)))).result(PATIENCE) == list("0123456789")


def test_from_inside_a_task_of_a_full_pool(make_pool: MakePool) -> None:
    """Inside a task of a pool that is full of others' tasks map fails with a clear error, and no deadlock."""
    pool, full = make_pool(1, queue_capacity=1), threading.Event()

    def task() -> list[str]:
        assert full.wait(PATIENCE)
        return list(pool.map(str, range(3)))

    future = pool.submit(task)
    until(future.running)
    pool.submit(bool)
    full.set()
    error = future.exception(PATIENCE)
    assert isinstance(error, PoolFullError)
    assert "A task of this pool would wait here" in str(error)


@both
def test_on_a_stopped_pool(make_pool: MakePool, through: Through) -> None:
    """A stopped pool refuses a map at once."""
    pool = make_pool(1)
    pool.stop()
    with pytest.raises(PoolClosedError):
        through(pool)(str, [1])


@both
def test_a_result_that_came_too_late_is_not_run_for_nobody(
    make_pool: MakePool, gate: BlockingTask, through: Through
) -> None:
    """At the timeout the very call that was waited for is cancelled as well, if it has not begun."""
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()
    results = through(pool)(str, [1, 2], timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)
    stats = pool.stats()
    assert (stats.queued, stats.dropped[Reason.CANCELLED]) == (0, 2)


def test_results_keep_the_pool_alive(registry: CollectorRegistry) -> None:
    """A map's iterator holds on to its pool while there are calls left to make, and lets go after that."""
    pool = prodpool.threads(name="mapped", max_workers=1, queue_capacity=1, registry=registry)
    alive = weakref.ref(pool)
    results = pool.map(str, range(50))
    del pool
    gc.collect()
    assert alive() is not None
    assert list(results) == [str(number) for number in range(50)]
    assert alive() is None


def test_an_iterator_collected_under_the_pools_lock(make_pool: MakePool, gate: BlockingTask) -> None:
    """The collector may come across a half-read map in the very thread that holds the pool's lock."""
    pool = make_pool(1, queue_capacity=4)
    first, later = BlockingTask(), gate
    first.release()

    def half_read() -> None:
        results = pool.map(lambda wait: wait(), [first, later, later, later])
        next(results)
        cycle: list[object] = [results]
        cycle.append(cycle)

    gc.disable()  # nobody else is to come across it first
    try:
        half_read()
        until(lambda: pool.stats().running == 1)
        with pool._engine.dispatcher.lock:
            gc.collect()
    finally:
        gc.enable()
    until(lambda: pool.stats().dropped[Reason.CANCELLED] == 2)


@pytest.mark.parametrize("chunksize", [1, 2])
def test_an_iterator_read_to_its_end_runs_nothing_when_dropped(make_pool: MakePool, chunksize: int) -> None:
    """What a signal's handler raises in a finalizer reaches nobody: the SystemExit of SIGTERM got lost."""
    pool = make_pool(1)
    results = pool.map(str, range(4), chunksize=chunksize)
    assert list(results) == ["0", "1", "2", "3"]
    called: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        del results
    finally:
        sys.setprofile(None)
    assert not called


def test_an_iterator_dropped_after_the_stop(make_pool: MakePool) -> None:
    """A half-read map that is let go of when its pool has stopped leaves nothing behind."""

    class Argument:
        """Something to refer to weakly."""

    argument = Argument()
    alive = weakref.ref(argument)
    pool = make_pool(1, queue_capacity=4)
    results = pool.map(lambda each: each, itertools.repeat(argument))
    assert next(results) is argument
    pool.stop(PATIENCE)
    until(lambda: background_thread()._thread is None)
    del results, argument
    until_collected(lambda: alive() is None)


@both
def test_what_is_done_is_handed_out_after_a_stop(make_pool: MakePool, through: Through) -> None:
    """A pool that takes no more calls says so when the results of those it took have been read."""
    pool = make_pool(1, queue_capacity=4)
    results = through(pool)(abs, itertools.count())
    assert next(results) == 0
    pool.stop(PATIENCE)
    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(PoolClosedError):
        next(results)
    assert list(results) == []
