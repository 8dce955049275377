"""No self-deadlock: a task that waits for its own pool is helped, or refused at once with a clear error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, PoolStats, Reason, Result, current_task
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, TaskError, fill, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner
from tests.support import MakePool


def test_waiting_for_a_queued_task_runs_it(make_pool: MakePool) -> None:
    """In a full pool of one worker, a task that waits for the task it submitted runs it right there."""
    pool = make_pool(1, queue_capacity=1)

    def outer() -> tuple[int, bool]:
        inner = pool.submit(threading.get_ident)
        with pytest.raises(PoolFullError):
            pool.submit(int)
        return inner.result(), inner.done()

    def here() -> tuple[int, tuple[int, bool]]:
        return threading.get_ident(), outer()

    worker, (ran_in, done) = pool.submit(here).result(PATIENCE)
    assert done
    assert ran_in == worker
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.in_flight) == (2, 2, 0)


def test_every_worker_waits_at_once(make_pool: MakePool, switching: None) -> None:
    """All workers submit and wait at the same moment, many times over, and none hangs."""
    workers = 4
    pool = make_pool(workers, queue_capacity=2 * workers)
    meeting = threading.Barrier(workers)

    def outer(number: int) -> int:
        meeting.wait(PATIENCE)
        return pool.submit(lambda: number).result(PATIENCE)

    for _ in range(50):
        futures = [pool.submit(outer, number) for number in range(workers)]
        assert [future.result(PATIENCE) for future in futures] == list(range(workers))
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK]) == (400, 400)


def test_chain(make_pool: MakePool) -> None:
    """A chain of tasks, each waiting for the next, runs in one worker; law and bounds hold at each link."""
    depth = 20
    pool = make_pool(1, queue_capacity=depth)
    seen: list[PoolStats] = []

    def link(left: int) -> int:
        seen.append(check(pool.stats()))
        return 0 if left == 0 else 1 + pool.submit(link, left - 1).result(PATIENCE)

    assert pool.submit(link, depth).result(PATIENCE) == depth
    # One runs; each task that its waiter runs keeps the place in the queue that it had.
    assert [(stats.running, stats.queued) for stats in seen] == [(1, number) for number in range(depth + 1)]
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.in_flight) == (depth + 1, 0)


def test_chain_beyond_the_queue(make_pool: MakePool) -> None:
    """A chain that is longer than the queue ends in PoolFullError, not in a hang, and leaks nothing."""
    pool = make_pool(1, queue_capacity=3)

    def link() -> int:
        return 1 + pool.submit(link).result(PATIENCE)

    assert isinstance(pool.submit(link).exception(PATIENCE), PoolFullError)
    stats = check(pool.stats())
    assert (stats.completed[Result.ERROR], stats.dropped[Reason.FULL], stats.in_flight) == (4, 1, 0)
    held = BlockingTask()
    assert len(fill(pool, held)) == 4
    held.release()


def test_helping_out_of_order(make_pool: MakePool) -> None:
    """A task may wait for its children in any order, and for some that were cancelled."""
    pool = make_pool(1, queue_capacity=10)

    def outer() -> list[int]:
        children: list[Future[int]] = [pool.submit(abs, number) for number in range(10)]
        assert children[5].cancel()
        return [child.result(PATIENCE) for child in reversed(children) if not child.cancelled()]

    assert pool.submit(outer).result(PATIENCE) == [9, 8, 7, 6, 4, 3, 2, 1, 0]
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.dropped[Reason.CANCELLED]) == (10, 1)


@pytest.mark.parametrize(
    ("error", "result"), [(TaskError(), Result.ERROR), (SystemExit(), Result.PANIC)], ids=["error", "panic"]
)
def test_helped_task_that_raises(make_pool: MakePool, error: BaseException, result: Result) -> None:
    """What a helped task raises comes out of ``result``, and is counted as that task's."""

    def inner() -> None:
        raise error

    def outer() -> bool:
        return pool.submit(inner).exception(PATIENCE) is error

    pool = make_pool(1)
    assert pool.submit(outer).result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.completed[result], stats.in_flight) == (1, 1, 0)


def test_helped_task_is_itself(make_pool: MakePool) -> None:
    """A helped task sees its own name and context, and the helper is itself again afterwards."""
    pool = make_pool(1)

    def name() -> str:
        task = current_task()
        assert task is not None
        return task.name

    def outer() -> list[str]:
        return [name(), pool.options(task="inner").submit(name).result(PATIENCE), name()]

    assert pool.options(task="outer").submit(outer).result(PATIENCE) == ["outer", "inner", "outer"]


def test_helped_task_gives_its_place_to_the_line(make_pool: MakePool) -> None:
    """The queue place of a helped task goes to the next in line when it has ended."""
    pool = make_pool(1, queue_capacity=1)
    crew, line, go = ThreadRunner(), WatchedWaiters(pool), threading.Event()
    ready = threading.Event()

    def outer() -> int:
        inner = pool.submit(lambda: 7)
        ready.set()
        assert go.wait(PATIENCE)
        return inner.result(PATIENCE)

    future = pool.submit(outer)
    assert ready.wait(PATIENCE)
    waiting = crew.start(pool.submit_wait, lambda: 8)
    line.wait()
    go.set()
    assert future.result(PATIENCE) == 7
    assert waiting.result(PATIENCE).result(PATIENCE) == 8
    crew.join()
    check(pool.stats())


def test_helping_before_the_worker_for_it_is_up(registry: CollectorRegistry) -> None:
    """A task that is helped while a second worker comes up for it keeps that worker's place, and no other."""
    backend = ThreadPoolExecutor(2)
    stranger, bystander = BlockingTask(), BlockingTask()
    backend.submit(stranger)
    stranger.wait_started()
    pool = InstrumentedPool(backend, name="test", queue_capacity=0, registry=registry)

    def inner() -> PoolStats:
        early = check(pool.stats())
        stranger.release()  # now the second worker comes up, and finds its task taken
        backend.submit(int).result(PATIENCE)
        with pytest.raises(PoolFullError):
            pool.submit(bystander)
        late = check(pool.stats())
        assert (late.running, late.queued) == (early.running, early.queued)
        return early

    def outer() -> PoolStats:
        return pool.submit(inner).result(PATIENCE)

    workers: Any = pool._engine.workers
    workers._linger = 0.01
    try:
        stats = pool.submit(outer).result(PATIENCE)
        assert (stats.running, stats.queued) == (2, 0)
        assert len(fill(pool, bystander)) == 2
    finally:
        stranger.release()
        bystander.release()
        drained = pool.stop(PATIENCE).drained
        pool.close_metrics()
    assert drained


def test_two_pools_on_the_same_threads(registry: CollectorRegistry) -> None:
    """Tasks of two pools that take up all shared threads may each wait for a task that stands behind them."""
    with ThreadPoolExecutor(2) as backend:
        pools = [
            InstrumentedPool(backend, name=name, registry=registry, own_backend=False)
            for name in ("first", "second")
        ]
        meeting = threading.Barrier(2)

        def outer(pool: InstrumentedPool) -> int:
            meeting.wait(PATIENCE)
            # A loop is started for this one; it has no thread to come up on before this task has ended.
            return pool.submit(lambda: 7).result(PATIENCE / 2)

        futures = [pool.submit(outer, pool) for pool in pools]
        assert [future.result(PATIENCE) for future in futures] == [7, 7]
        for pool in pools:
            assert pool.stop(PATIENCE).drained
            check(pool.stats())
            pool.close_metrics()


def test_a_timeout_of_zero_does_not_help(make_pool: MakePool) -> None:
    """``result(timeout=0)`` inside a task only looks: it neither runs the task nor waits."""
    pool = make_pool(1)

    def outer() -> bool:
        inner = pool.submit(int)
        with pytest.raises(TimeoutError):
            inner.result(timeout=0)
        return inner.done()

    assert pool.submit(outer).result(PATIENCE) is False


def test_a_map_inside_a_task(make_pool: MakePool) -> None:
    """``map`` inside a task of a one-worker pool runs its calls there, in order, as far as places allow."""
    pool = make_pool(1, queue_capacity=4)

    def outer() -> list[int]:
        return list(pool.map(abs, range(-20, 0)))

    assert pool.submit(outer).result(PATIENCE) == list(range(20, 0, -1))
    assert check(pool.stats()).completed[Result.OK] == 21


@pytest.mark.parametrize("way", ["block", "submit_wait", "wait", "view", "map"])
def test_blocking_inside_a_full_pool(make_pool: MakePool, way: str) -> None:
    """Waiting for a slot inside a worker of a full pool fails at once, and the error says why."""
    pool = make_pool(1, queue_capacity=0, overload="block" if way == "block" else "reject")

    def outer() -> Any:
        ways: dict[str, Callable[[], object]] = {
            "block": lambda: pool.submit(int),
            "submit_wait": lambda: pool.submit_wait(int),
            "wait": lambda: pool.options(wait=30.0).submit(int),
            "view": lambda: pool.options(task="view").submit_wait(int),
            "map": lambda: list(pool.map(abs, [1])),
        }
        with pytest.raises(PoolFullError, match="A task of this pool would wait here") as caught:
            ways[way]()
        return caught.value.reason

    assert pool.submit_wait(outer).result(PATIENCE) is Reason.FULL
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.FULL]) == (1, 1)


def test_async_submit_inside_a_full_pool(make_pool: MakePool) -> None:
    """An event loop run inside a worker may not wait for a slot of that worker's full pool either."""
    pool = make_pool(1, queue_capacity=0)

    async def inner() -> None:
        await pool.submit_async(int)

    def outer() -> BaseException | None:
        with pytest.raises(PoolFullError, match="A task of this pool would wait here") as caught:
            asyncio.run(inner())
        return caught.value

    assert pool.submit_wait(outer).result(PATIENCE) is not None


@pytest.mark.parametrize("way", ["submit", "submit_wait", "submit_async"])
def test_submit_inside_a_closed_pool(make_pool: MakePool, hold: BlockingTask, way: str) -> None:
    """A task that submits to its own pool when that is closed hears that it is closed, not full."""
    pool = make_pool(1)

    def outer() -> BaseException | None:
        hold()

        async def inner() -> None:
            await pool.submit_async(int)

        ways: dict[str, Callable[[], object]] = {
            "submit": lambda: pool.submit(int),
            "submit_wait": lambda: pool.submit_wait(int),
            "submit_async": lambda: asyncio.run(inner()),
        }
        with pytest.raises(PoolClosedError) as caught:
            ways[way]()
        return caught.value

    future = pool.submit(outer)
    hold.wait_started()
    pool.shutdown(wait=False)
    hold.release()
    assert future.result(PATIENCE) is not None
    assert pool.stop(PATIENCE).drained
    stats = check(pool.stats())
    assert (stats.dropped[Reason.CLOSED], stats.dropped[Reason.FULL]) == (1, 0)


def test_caller_runs_helps_below(make_pool: MakePool) -> None:
    """A task that another one runs as its caller may wait for queued tasks of the pool: the worker helps."""
    pool = make_pool(1, queue_capacity=1, overload="caller_runs")

    def outer() -> int:
        queued = pool.submit(lambda: 7)
        return pool.submit(queued.result, PATIENCE / 2).result(PATIENCE)

    assert pool.submit(outer).result(PATIENCE) == 7
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.in_flight) == (3, 3, 0)


def test_caller_runs_may_not_wait_for_a_slot(make_pool: MakePool) -> None:
    """A task that another one runs as its caller is still inside the pool: it may not wait for a slot."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")

    def inner() -> BaseException:
        with pytest.raises(PoolFullError, match="A task of this pool would wait here") as caught:
            pool.options(wait=2.0).submit(int)
        return caught.value

    assert pool.submit(lambda: pool.submit(inner).result(0)).result(PATIENCE) is not None


def test_stop_inside_a_task(make_pool: MakePool) -> None:
    """Stopping the pool inside one of its tasks, its caller's tasks included, is refused at once."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")

    def inner() -> None:
        with pytest.raises(RuntimeError, match="inside a task of pool 'test'"):
            pool.stop(PATIENCE)
        with pytest.raises(RuntimeError, match="inside a task of pool 'test'"):
            pool.shutdown()

    def outer() -> None:
        inner()
        pool.submit(inner).result(0)

    pool.submit(outer).result(PATIENCE)
    assert pool.stats().state == "open"


def test_two_pools(make_pool: MakePool) -> None:
    """A task of one pool that another pool's task runs as its caller may wait for its own pool's queue."""
    first = make_pool(1, queue_capacity=1)
    second = make_pool(1, queue_capacity=0, overload="caller_runs")
    hold = BlockingTask()
    occupy(second, hold, 1)

    def outer() -> int:
        queued = first.submit(lambda: 7)
        return second.submit(queued.result, PATIENCE / 2).result(0)

    try:
        assert first.submit(outer).result(PATIENCE) == 7
    finally:
        hold.release()
    check(first.stats())
    check(second.stats())


def test_another_pool_is_not_helped(make_pool: MakePool, hold: BlockingTask) -> None:
    """A worker of one pool waits for a task of another one as any thread does, and does not run it."""
    first, second = make_pool(1), make_pool(1)
    occupy(second, hold, 1)
    queued = second.submit(threading.get_ident)
    waiting = threading.Event()

    def outer() -> tuple[int, int]:
        waiting.set()
        return threading.get_ident(), queued.result(PATIENCE)

    future = first.submit(outer)
    assert waiting.wait(PATIENCE)
    hold.release()
    here, there = future.result(PATIENCE)
    assert here != there


def test_endless_nesting(registry: CollectorRegistry) -> None:
    """Tasks nested until the interpreter gives up end in RecursionError; no place and no count is lost."""
    pool = InstrumentedPool(ThreadPoolExecutor(1), name="test", queue_capacity=5_000, registry=registry)

    def link() -> int:
        return 1 + pool.submit(link).result(PATIENCE)

    error = pool.submit(link).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    report = pool.stop(PATIENCE)
    stats = pool.stats()
    assert counts_add_up(stats)
    assert stats.in_flight == 0
    assert report.abandoned == ()
    pool.close_metrics()


@pytest.mark.parametrize("policy", ["reject", "caller_runs"])
def test_submitting_at_the_end_of_the_stack(make_pool: MakePool, policy: str) -> None:
    """A submit that fails for want of stack is as if it had not been: no worker, place or count is lost."""
    pool = make_pool(2, queue_capacity=1, overload=policy)
    hold = BlockingTask()
    there = occupy(pool, hold, 2)
    if policy == "caller_runs":
        there.append(pool.submit(int))
    else:
        hold.release()

    def submit_below(frames: int) -> Future[int]:
        return submit_below(frames - 1) if frames else pool.submit(int)

    refused = 0
    depth = 400
    try:
        while refused < 60:
            depth += 1
            try:
                submit_below(depth).result(PATIENCE)
            except RecursionError:
                refused += 1
            except PoolFullError:
                continue
            assert counts_add_up(pool.stats()), depth
    finally:
        hold.release()
    wait(there, PATIENCE)
    assert pool.submit_wait(lambda: 7).result(PATIENCE) == 7
    # At once, that is: a worker that was lost is noticed when it has idled for long enough.
    again = BlockingTask()
    assert len(fill(pool, again)) == 3
    again.release()
    assert pool.stop(PATIENCE).drained
    assert check(pool.stats()).in_flight == 0
