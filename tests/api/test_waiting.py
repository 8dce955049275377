"""Promise 3: concurrent.futures and asyncio wait for a pool's futures as for their own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION, Future, as_completed, wait
from pathlib import Path

import pytest

import prodpool
from prodpool import InstrumentedPool, PoolFuture
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.support import ROOT, MakePool

RETURN_WHEN = [ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION]


def boom() -> None:
    raise ValueError("boom")


@pytest.fixture
def switch_often() -> Iterator[None]:
    """Have the interpreter switch threads as often as it can, so that races are met."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("return_when", RETURN_WHEN)
def test_wait_on_what_is_done(make_pool: MakePool, gate: BlockingTask, return_when: str) -> None:
    """Waiting on futures that are all done returns them all at once, cancelled and failed ones included."""
    pool = make_pool(1)
    futures: list[PoolFuture[object]] = [pool.submit(gate), pool.submit(len, ""), pool.submit(boom)]
    assert futures[1].cancel()
    gate.release()
    futures[2].exception(PATIENCE)
    done, not_done = wait(futures, PATIENCE, return_when)
    assert (done, not_done) == (set(futures), set())


@pytest.mark.parametrize("return_when", RETURN_WHEN)
def test_wait_times_out(make_pool: MakePool, gate: BlockingTask, return_when: str) -> None:
    """At the timeout wait() returns with the futures that are not done, queued and running."""
    pool = make_pool(1)
    running, queued = pool.submit(gate), pool.submit(gate)
    gate.wait_started()
    assert wait([running, queued], 0.001, return_when) == (set(), {running, queued})


def woken_by(
    pool: InstrumentedPool, futures: list[PoolFuture[object]], return_when: str, act: BlockingTask
) -> set[object]:
    """Wait in a thread for ``futures``, open ``act`` once the waiter is installed, return what is done."""
    found: list[set[object]] = []
    waiter = threading.Thread(target=lambda: found.append(set(wait(futures, PATIENCE, return_when).done)))
    waiter.start()
    for future in futures:  # the waiter is in place once every future has heard of it
        until(lambda future=future: future.done() or (future._cond is not None and future._waiters))  # type: ignore[misc]
    act.release()
    waiter.join(PATIENCE)
    assert found, "wait() did not return"
    return found[0]


def test_wait_for_the_first(make_pool: MakePool, gate: BlockingTask) -> None:
    """FIRST_COMPLETED returns as soon as one is done."""
    pool, first = make_pool(2), BlockingTask()
    futures: list[PoolFuture[object]] = [pool.submit(first), pool.submit(gate)]
    assert woken_by(pool, futures, FIRST_COMPLETED, first) == {futures[0]}


def test_wait_for_the_first_failure(make_pool: MakePool, gate: BlockingTask) -> None:
    """FIRST_EXCEPTION lets a success pass and returns at the first failure."""
    pool, first = make_pool(1), BlockingTask()
    futures: list[PoolFuture[object]] = [pool.submit(first), pool.submit(boom), pool.submit(gate)]
    assert woken_by(pool, futures, FIRST_EXCEPTION, first) == {futures[0], futures[1]}


def test_a_cancelled_task_is_no_failure(make_pool: MakePool, gate: BlockingTask) -> None:
    """FIRST_EXCEPTION does not return for a cancelled future, but counts it as done."""
    pool = make_pool(1)
    futures: list[PoolFuture[object]] = [pool.submit(gate), pool.submit(len, "")]
    futures[1].cancel()
    assert wait(futures, 0.01, FIRST_EXCEPTION).done == {futures[1]}
    assert woken_by(pool, futures, ALL_COMPLETED, gate) == set(futures)


def test_wait_across_pools_and_kinds(make_pool: MakePool, gate: BlockingTask) -> None:
    """One wait() may mix futures of two pools and of the standard library."""
    plain: Future[object] = Future()
    ours: list[Future[object]] = [make_pool(1).submit(gate, 1), make_pool(1).submit(gate, 2)]
    assert wait([*ours, plain], 0, ALL_COMPLETED).not_done == {*ours, plain}
    gate.release()
    plain.set_result(3)
    assert wait([*ours, plain], PATIENCE).done == {*ours, plain}


def test_as_completed_in_order_of_completion(make_pool: MakePool) -> None:
    """as_completed() yields each future once, in the order in which they end."""
    pool, gates = make_pool(3), [BlockingTask(), BlockingTask(), BlockingTask()]
    futures = [pool.submit(gate, number) for number, gate in enumerate(gates)]
    gates[2].release()
    results = as_completed([*futures, futures[0]], PATIENCE)
    order = [next(results).result()]
    for gate in (gates[0], gates[1]):
        gate.release()
        order.append(next(results).result())
    assert order == [2, 0, 1]
    assert list(results) == []


def test_as_completed_times_out(make_pool: MakePool, gate: BlockingTask) -> None:
    """as_completed() yields what is done and then raises TimeoutError."""
    pool = make_pool(1)
    done = pool.submit(len, "done")
    done.result(PATIENCE)
    results = as_completed([done, pool.submit(gate)], 0.01)
    assert next(results) is done
    with pytest.raises(TimeoutError):
        next(results)


@pytest.mark.parametrize("return_when", RETURN_WHEN)
@pytest.mark.usefixtures("switch_often")
def test_wait_races_with_the_end(make_pool: MakePool, return_when: str) -> None:
    """A task that ends at the very moment when somebody begins to wait for it is never missed."""
    pool = make_pool(2, queue_capacity=8)
    for number in range(400):
        futures: list[PoolFuture[object]] = [pool.submit(boom if number % 3 == 0 else bool) for _ in range(4)]
        if number % 4 == 0:
            futures[3].cancel()
        assert wait(futures, PATIENCE, return_when).done
        assert wait(futures, PATIENCE).not_done == set()


@pytest.mark.usefixtures("switch_often")
def test_as_completed_races_with_the_end(make_pool: MakePool) -> None:
    """as_completed() yields every future however its task's end falls."""
    pool = make_pool(2, queue_capacity=8)
    for number in range(400):
        futures = [pool.submit(bool) for _ in range(4)]
        if number % 4 == 0:
            futures[3].cancel()
        assert len(list(as_completed(futures, PATIENCE))) == 4


@pytest.mark.usefixtures("switch_often")
def test_callbacks_race_with_the_end(make_pool: MakePool) -> None:
    """A callback added while the task ends is called exactly once."""
    pool, calls = make_pool(2), []
    futures = []
    for number in range(1000):
        future = pool.submit_wait(bool)
        future.add_done_callback(lambda _, number=number: calls.append(number))  # type: ignore[misc]
        futures.append(future)
    wait(futures, PATIENCE)
    pool.stop()  # a stop waits for callbacks
    assert sorted(calls) == list(range(1000))


@pytest.mark.usefixtures("switch_often")
def test_many_threads_wait_for_one_result(make_pool: MakePool) -> None:
    """Every thread that asks for a result gets it, whether it came before or after the end."""
    pool = make_pool(1)
    for _ in range(50):
        got: list[object] = []
        start = threading.Barrier(5)

        def task(start: threading.Barrier = start) -> str:
            start.wait(PATIENCE)
            return "result"

        future = pool.submit(task)

        def ask(
            start: threading.Barrier = start, future: PoolFuture[str] = future, got: list[object] = got
        ) -> None:
            start.wait(PATIENCE)
            got.append(future.result(PATIENCE))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert got == ["result"] * 4


# asyncio


async def test_wrap_future(make_pool: MakePool) -> None:
    """asyncio.wrap_future gives a pool's future to a coroutine: result and exception alike."""
    pool = make_pool(1)
    assert await asyncio.wrap_future(pool.submit(len, "four")) == 4
    with pytest.raises(ValueError, match="boom"):
        await asyncio.wrap_future(pool.submit(boom))


async def test_cancelling_the_wrapper_cancels_the_task(make_pool: MakePool, gate: BlockingTask) -> None:
    """Cancelling what wraps a queued task takes that out of the queue."""
    pool = make_pool(1)
    pool.submit(gate)
    future = pool.submit(len, "never")
    wrapper = asyncio.wrap_future(future)
    wrapper.cancel()
    await asyncio.wait([wrapper], timeout=PATIENCE)
    assert future.cancelled()


async def test_cancelling_the_task_cancels_the_wrapper(make_pool: MakePool, gate: BlockingTask) -> None:
    """A coroutine that waits for a task learns that the task was cancelled."""
    pool = make_pool(1)
    pool.submit(gate)
    future = pool.submit(len, "never")
    wrapper = asyncio.wrap_future(future)
    future.cancel()
    done, _ = await asyncio.wait([wrapper], timeout=PATIENCE)
    assert done == {wrapper}
    assert wrapper.cancelled()


@pytest.mark.parametrize("through", ["pool", "view"])
async def test_run_in_executor(make_pool: MakePool, through: str) -> None:
    """loop.run_in_executor takes a pool and a view of one."""
    pool = make_pool(4, queue_capacity=100)
    executor = pool if through == "pool" else pool.options(task="measure", deadline=PATIENCE)
    loop = asyncio.get_running_loop()
    words = ["x" * length for length in range(100)]
    lengths = await asyncio.gather(*(loop.run_in_executor(executor, len, word) for word in words))
    assert lengths == list(range(100))
    with pytest.raises(ValueError, match="boom"):
        await loop.run_in_executor(executor, boom)


async def test_awaiting_a_stop_iteration_ends(make_pool: MakePool) -> None:
    """A coroutine that awaits a task which raised StopIteration gets a RuntimeError and does not hang."""
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(loop.run_in_executor(make_pool(1), next, iter(())), PATIENCE)


async def test_submit_async(make_pool: MakePool) -> None:
    """submit_async gives an asyncio future, from a pool and from a view of one."""
    pool = make_pool(1)
    for executor in (pool, pool.options(task="measure")):
        future = await executor.submit_async(len, "four")
        assert isinstance(future, asyncio.Future)
        assert await future == 4
        with pytest.raises(ValueError, match="boom"):
            await (await executor.submit_async(boom))


async def test_asyncio_takes_no_pool_for_its_default(make_pool: MakePool) -> None:
    """A ThreadPoolExecutor is all that asyncio takes for its default executor; loop and pool go on."""
    pool, loop = make_pool(1), asyncio.get_running_loop()
    with pytest.raises(TypeError, match="ThreadPoolExecutor"):
        loop.set_default_executor(pool)
    assert await loop.run_in_executor(pool, len, "four") == 4


def test_the_default_executor_is_documented() -> None:
    """Where a user would look, it is written that a pool cannot be asyncio's default executor."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    texts = [page.read_text() for page in pages if isinstance(page, Path) and page.is_file()]
    texts.append(str(prodpool.InstrumentedPool.__doc__))
    assert any("set_default_executor" in text for text in texts)


def test_the_words_of_the_standard_library() -> None:
    """The errors that waiting raises are the very classes that callers already catch."""
    assert concurrent.futures.TimeoutError is TimeoutError
    assert issubclass(prodpool.WorkerLostError, concurrent.futures.BrokenExecutor)
