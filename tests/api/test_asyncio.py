"""A pool on an event loop: `run`, `async with` and `stop_async` leave the loop going on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import (
    InstrumentedPool,
    PoolClosedError,
    PoolFullError,
    Reason,
    Result,
    WorkerLostError,
    current_task,
)
from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import LEEWAY, PATIENCE, until
from tests.support import Logs, MakePool


class AskedToEnd:
    """A task that runs until it is asked to end, and says so."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.told = threading.Event()

    def __call__(self) -> str:
        task = current_task()
        assert task is not None
        self.began.set()
        assert task.cancelled.wait(PATIENCE), "the task was never told"
        assert task.cancelled.is_set()
        self.told.set()
        return "ended when asked"

    async def wait(self, event: threading.Event) -> None:
        assert await asyncio.to_thread(event.wait, PATIENCE)


def is_asked() -> bool:
    """Tell whether the task that calls this should end."""
    task = current_task()
    assert task is not None
    return task.cancelled.is_set()


async def until_closed(pool: InstrumentedPool) -> None:
    """Return once the pool takes no more tasks."""
    await asyncio.to_thread(until, lambda: pool.stats().state != "open")


@asynccontextmanager
async def going_on() -> AsyncIterator[Callable[[], int]]:
    """Count the turns of the loop, which stand still while it is blocked."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        yield lambda: turns
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


# run.


async def test_run(make_pool: MakePool) -> None:
    """One await gives the result, or what the task raised; a view's options go with it."""

    def fail() -> None:
        raise TaskError

    def name() -> str:
        task = current_task()
        assert task is not None
        return task.name

    pool = make_pool(1)
    assert await pool.run(divmod, 7, 2) == (3, 1)
    assert await pool.run(int, "11", base=2) == 3
    assert await pool.options(task="named").run(name) == "named"
    with pytest.raises(TaskError):
        await pool.run(fail)
    assert check(pool.stats()).completed[Result.OK] == 3


async def test_run_waits_for_a_slot(make_pool: MakePool, gate: BlockingTask) -> None:
    """Many coroutines run tasks in a small pool, in order; a bounded wait for a slot ends as elsewhere."""
    pool = make_pool(1, queue_capacity=0)
    held = asyncio.create_task(pool.run(gate, "held"))
    await asyncio.to_thread(gate.wait_started)
    with pytest.raises(PoolFullError):
        await pool.options(wait=0.01).run(int)
    waiting = [asyncio.create_task(pool.run(abs, -number)) for number in range(20)]
    await asyncio.sleep(0)
    gate.release()
    assert await asyncio.gather(*waiting) == list(range(20))
    assert await held == "held"


async def test_run_dropped_by_a_stop(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that a stop drops from the queue was refused after all: the coroutine was not cancelled."""
    pool = make_pool(1, queue_capacity=1)
    held = asyncio.create_task(pool.run(gate))
    await asyncio.to_thread(gate.wait_started)
    queued = asyncio.create_task(pool.run(int))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(pool.stop_async(0.05))
    with pytest.raises(PoolClosedError, match="stop"):
        await queued
    gate.release()
    await stopping
    with suppress(WorkerLostError):  # if it was given up before
        await held


async def test_run_cancelled_in_line(make_pool: MakePool, gate: BlockingTask) -> None:
    """Cancelled while it waits for a slot it gives its place up; while its task is queued it cancels that."""
    pool = make_pool(1, queue_capacity=1)
    held = asyncio.create_task(pool.run(gate))
    await asyncio.to_thread(gate.wait_started)
    queued = asyncio.create_task(pool.run(int))
    await asyncio.sleep(0)
    assert check(pool.stats()).queued == 1
    line = WatchedWaiters(pool)
    waiting = asyncio.create_task(pool.run(int))
    await asyncio.to_thread(line.wait)
    for task in (waiting, queued):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    # asyncio tells the pool in the loop's next turn.
    await asyncio.sleep(0)
    stats = check(pool.stats())
    assert (stats.queued, stats.dropped[Reason.FULL], stats.dropped[Reason.CANCELLED]) == (0, 1, 1)
    gate.release()
    await held


def ways(pool: InstrumentedPool) -> dict[str, Callable[[Callable[[], Any]], Awaitable[Any]]]:
    """Return the ways to wait for a task in a coroutine."""

    async def twice(fn: Callable[[], Any]) -> Any:
        return await (await pool.submit_async(fn))

    return {
        "run": pool.run,
        "view": pool.options(task="viewed").run,
        "submit_async": twice,
        "wrap_future": lambda fn: asyncio.wrap_future(pool.submit(fn)),
        "run_in_executor": lambda fn: asyncio.get_running_loop().run_in_executor(pool, fn),
    }


WAYS = ["run", "view", "submit_async", "wrap_future", "run_in_executor"]


@pytest.mark.parametrize("way", WAYS)
async def test_a_cancelled_request_is_told(make_pool: MakePool, way: str) -> None:
    """A coroutine cancelled while its task runs has the task told; it ends as it likes, and counts as ok."""
    pool, asked = make_pool(1), AskedToEnd()
    request = asyncio.ensure_future(ways(pool)[way](asked))
    await asked.wait(asked.began)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await asked.wait(asked.told)
    # The next task of this worker is not told of it.
    assert await pool.run(is_asked) is False
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.dropped[Reason.CANCELLED]) == (2, 0)


@pytest.mark.parametrize("way", WAYS)
async def test_a_request_that_times_out(make_pool: MakePool, way: str) -> None:
    """So does one whose wait is over, by `wait_for` or by `asyncio.timeout`."""
    pool, tasks = make_pool(1), [AskedToEnd(), AskedToEnd()]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ways(pool)[way](tasks[0]), 0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await ways(pool)[way](tasks[1])
    assert await pool.run(abs, -7) == 7
    # On a slow machine the time may be over before a task began: it is out of the queue then.
    assert [task.told.is_set() for task in tasks] == [task.began.is_set() for task in tasks]
    assert check(pool.stats()).completed[Result.ERROR] == 0


async def test_a_shielded_task_is_not_told(make_pool: MakePool) -> None:
    """What a shield protects goes on untold when the request is cancelled."""
    pool, began, go_on = make_pool(1), threading.Event(), threading.Event()

    def look() -> bool:
        began.set()
        assert go_on.wait(PATIENCE)
        return is_asked()

    future = await pool.submit_async(look)

    async def shielded() -> None:
        await asyncio.shield(future)

    request = asyncio.create_task(shielded())
    await asyncio.to_thread(began.wait, PATIENCE)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    go_on.set()
    assert await future is False


# stop_async and async with.


async def test_async_with(make_pool: MakePool) -> None:
    """Leaving the block drains the pool while the loop goes on: a task that calls back into it finishes."""
    loop = asyncio.get_running_loop()
    began = threading.Event()
    closing = threading.Event()

    async def save() -> str:
        return "saved"

    def job() -> str:
        began.set()
        assert closing.wait(PATIENCE)
        return asyncio.run_coroutine_threadsafe(save(), loop).result(PATIENCE)

    async def see_it_close(pool: InstrumentedPool) -> None:
        await until_closed(pool)
        closing.set()

    async with make_pool(1) as pool:
        future = pool.submit(job)
        await asyncio.to_thread(began.wait, PATIENCE)
        watching = asyncio.create_task(see_it_close(pool))
    await watching
    assert future.result(0) == "saved"
    assert pool.stats().state == "stopped"
    with pytest.raises(PoolClosedError):
        await pool.run(int)


async def test_async_with_lets_errors_through(make_pool: MakePool) -> None:
    """What the block raises comes out of it, after the pool has stopped."""
    with pytest.raises(TaskError):
        async with make_pool(1) as pool:
            raise TaskError
    assert pool.stats().state == "stopped"


async def test_stop_async_reports(make_pool: MakePool, gate: BlockingTask) -> None:
    """It returns what `stop` does, keeps to its deadline, and may be called several times at once."""
    pool = make_pool(1, queue_capacity=3)
    pool.submit(gate)
    await asyncio.to_thread(gate.wait_started)
    queued = pool.submit(int)
    async with going_on() as turns:
        before, began = turns(), time.monotonic()
        reports = await asyncio.gather(pool.stop_async(0.05), pool.stop_async(PATIENCE))
        assert time.monotonic() - began < LEEWAY
        assert turns() > before + 1
    assert reports[0] is reports[1]
    assert (reports[0].drained, reports[0].dropped, len(reports[0].abandoned)) == (False, 1, 1)
    assert queued.cancelled()
    assert await pool.stop_async() is reports[0]
    gate.release()


async def test_a_cancelled_stop_goes_on(make_pool: MakePool, gate: BlockingTask) -> None:
    """Cancelling who waits for a stop leaves the stop alone; a later call waits for the same one."""
    pool = make_pool(1)
    future = pool.submit(gate, "done")
    await asyncio.to_thread(gate.wait_started)
    stopping = asyncio.create_task(pool.stop_async(PATIENCE))
    await until_closed(pool)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert future.running()
    assert pool.stats().state == "draining"
    gate.release()
    report = await pool.stop_async()
    assert (report.drained, report.completed, future.result(0)) == (True, 1, "done")


def test_a_stop_outlives_its_loop(make_pool: MakePool, gate: BlockingTask) -> None:
    """The loop may be closed before the stop has ended."""
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()

    async def begin() -> None:
        stopping = asyncio.create_task(pool.stop_async(PATIENCE))
        await until_closed(pool)
        stopping.cancel()

    asyncio.run(begin())
    gate.release()
    assert pool.stop(PATIENCE).drained


async def test_stop_async_needs_no_executor_of_the_loop(make_pool: MakePool, gate: BlockingTask) -> None:
    """It does not wait for a thread of the loop's default executor, all of which may be busy."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, gate)
    pool = make_pool(1)
    assert (await asyncio.wait_for(pool.stop_async(), PATIENCE)).drained
    gate.release()
    await busy


async def test_stop_async_without_a_thread(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread to give, the stop is done all the same."""
    pool = make_pool(1)
    await pool.run(int)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("prodpool.concurrency.event_loop.start_thread", refuse)
        assert (await pool.stop_async(PATIENCE)).drained


@pytest.mark.parametrize("name", ["stop_async", "wait_idle_async"])
def test_outside_of_a_loop(make_pool: MakePool, name: str) -> None:
    """Driven by something else than asyncio, the error names the method and says what to call instead."""
    pool = make_pool(1)
    coroutine = getattr(pool, name)()
    with pytest.raises(RuntimeError, match=rf"{name}\(\) needs a running asyncio event loop: call .* thread"):
        coroutine.send(None)


@pytest.mark.parametrize(("name", "argument"), [("stop_async", "deadline"), ("wait_idle_async", "timeout")])
async def test_bad_seconds(make_pool: MakePool, name: str, argument: str) -> None:
    """A wrong number of seconds is an error that names it, and stops nothing."""
    pool = make_pool(1)
    for wrong, kind in ((-1.0, ValueError), ("1", TypeError), (float("nan"), ValueError)):
        with pytest.raises(kind, match=rf"{argument}={wrong!r} must be .* seconds"):
            await getattr(pool, name)(wrong)
    assert pool.stats().state == "open"


@pytest.mark.parametrize("name", ["stop_async", "wait_idle_async"])
def test_inside_a_task(make_pool: MakePool, name: str) -> None:
    """A task that runs a loop of its own cannot wait there for its own end."""
    pool = make_pool(1)

    async def wait() -> None:
        await getattr(pool, name)()

    error = pool.submit(lambda: asyncio.run(wait())).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert f"{name}() inside a task of pool 'test'" in str(error)


async def test_a_blocked_loop_is_logged(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """A stop that waits for tasks on a loop's thread says so once, in the log; the stop is as ever."""
    pool = make_pool(1)
    pool.submit(gate)
    await asyncio.to_thread(gate.wait_started)

    def release_when_said() -> None:
        logs.wait_for("pool.stop_blocks_loop")
        gate.release()

    # The log has a thread of its own: it writes the line while the loop stands.
    thread = threading.Thread(target=release_when_said)
    thread.start()
    assert pool.stop(PATIENCE).drained
    await asyncio.to_thread(thread.join)
    assert pool.stop(PATIENCE).drained
    lines = logs.named("pool.stop_blocks_loop")
    assert [(line["running"], line["queue_depth"]) for line in lines] == [(1, 0)]
    assert "stop_async" in lines[0]["instead"]


async def test_what_is_not_logged(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """Nothing is said of a stop that has nothing to wait for, or that no loop waits for."""
    with make_pool(1) as idle:
        await idle.run(int)
    pools = [make_pool(1) for _ in range(3)]
    for pool in pools:
        pool.submit(gate)
    await asyncio.to_thread(gate.wait_started, 3)
    pools[0].shutdown(wait=False)
    stopping = [
        asyncio.create_task(pools[1].stop_async()),
        asyncio.create_task(asyncio.to_thread(pools[2].stop)),
    ]
    for pool in pools:
        await until_closed(pool)
    gate.release()
    await asyncio.gather(*stopping)
    await pools[0].stop_async()
    assert logs.named("pool.stopped")
    assert not logs.named("pool.stop_blocks_loop")


def test_a_subclass_of_a_pool_is_given(registry: CollectorRegistry) -> None:
    """`async with` gives the pool itself."""

    async def inside() -> None:
        pool = prodpool.threads(name="within", max_workers=1, registry=registry)
        async with pool as given:
            assert given is pool

    asyncio.run(inside())
