"""Coroutines that wait for a slot: no thread held, nothing kept by one that went away."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, Reason, Result, TaskExpiredError
from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import PATIENCE, until
from tests.support import MakePool


async def outcome(pool: InstrumentedPool, value: int) -> int:
    """Submit a task that returns ``value`` and await its result."""
    return await (await pool.submit_async(lambda: value))


async def in_line(pool: InstrumentedPool, *coroutines: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Start the coroutines, in order, and return once each of them stands in line."""
    line = WatchedWaiters(pool)
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    await asyncio.to_thread(line.wait, len(tasks))
    return tasks


async def test_result_and_exception(make_pool: MakePool) -> None:
    """Awaiting once admits the task, awaiting again gives its result or what it raised."""

    def boom() -> None:
        raise TaskError

    pool = make_pool(1)
    assert await outcome(pool, 7) == 7
    future = await pool.options(task="named", deadline=PATIENCE).submit_async(boom)
    with pytest.raises(TaskError):
        await future
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.completed[Result.ERROR]) == (1, 1)


async def test_context_is_captured(make_pool: MakePool) -> None:
    """A task submitted from a coroutine sees that coroutine's contextvars."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(3)
    pool = make_pool(1)
    assert await (await pool.submit_async(variable.get)) == 3


async def test_a_thousand_wait_without_a_thread(make_pool: MakePool, hold: BlockingTask) -> None:
    """A thousand coroutines wait for a slot in the event loop's one thread, and get their turn in order."""
    pool = make_pool(1, queue_capacity=3)
    occupied = await asyncio.to_thread(occupy, pool, hold, 1)
    ran: list[int] = []
    queued = [pool.submit(int) for _ in range(3)]
    threads = set(threading.enumerate())

    async def waiter(number: int) -> None:
        await (await pool.submit_async(ran.append, number))

    line = WatchedWaiters(pool)
    tasks = [asyncio.create_task(waiter(number)) for number in range(1_000)]
    await asyncio.sleep(0)  # one turn of the loop: each runs up to its first wait
    line.wait(1_000)
    assert set(threading.enumerate()) <= threads
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.FULL]) == (4, 3, 0)
    hold.release()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tasks)
    assert set(threading.enumerate()) <= threads
    assert ran == list(range(1_000))
    assert all(future.done() for future in [*occupied, *queued]), [*occupied, *queued]
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], pool._engine.reader.snapshot().admission_wait.count) == (1_004, 1_000)


async def test_cancelled_waiter_gives_its_place_back(make_pool: MakePool, hold: BlockingTask) -> None:
    """A coroutine cancelled in line is refused as full; those behind it move up, and its task never runs."""
    pool = make_pool(1, queue_capacity=0)
    await asyncio.to_thread(occupy, pool, hold, 1)
    tasks = await in_line(pool, *(outcome(pool, number) for number in range(6)))
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks[::2])
    assert all(task.cancelled() for task in tasks[::2])
    assert pool._engine.dispatcher.waiters.length == 3
    hold.release()
    async with asyncio.timeout(PATIENCE):
        assert await asyncio.gather(*tasks[1::2]) == [1, 3, 5]
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.dropped[Reason.FULL]) == (4, 4, 3)


async def test_waiter_cancelled_when_just_let_in(make_pool: MakePool, hold: BlockingTask) -> None:
    """A coroutine cancelled between being let in and hearing of it has its queued task cancelled."""
    pool = make_pool(1, queue_capacity=1)
    await asyncio.to_thread(occupy, pool, hold, 1)
    queued = pool.submit(int)
    (task,) = await in_line(pool, outcome(pool, 7))
    # In one turn of the loop: the place goes to the waiter, and the waiter goes away before it is told.
    assert queued.cancel()
    assert check(pool.stats()).queued == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.CANCELLED]) == (3, 0, 2)
    assert len([pool.submit(int)]) == 1
    with pytest.raises(PoolFullError):
        pool.submit(int)


async def test_bounded_wait(make_pool: MakePool, hold: BlockingTask) -> None:
    """A coroutine whose wait is over gets PoolFullError, or TaskExpiredError at its task's own deadline."""
    pool = make_pool(1, queue_capacity=0)
    await asyncio.to_thread(occupy, pool, hold, 1)
    for view in (pool.options(wait=0), pool.options(wait=0.01)):
        with pytest.raises(PoolFullError):
            await view.submit_async(int)
    with pytest.raises(TaskExpiredError):
        await pool.options(deadline=0.01).submit_async(int)
    assert pool._engine.dispatcher.waiters.length == 0
    stats = check(pool.stats())
    assert (stats.submitted, stats.offered) == (2, 4)
    assert (stats.dropped[Reason.FULL], stats.dropped[Reason.EXPIRED]) == (2, 1)


async def test_refused_at_close(make_pool: MakePool, hold: BlockingTask) -> None:
    """Coroutines in line get PoolClosedError when the pool closes, while a task still runs."""
    pool = make_pool(1, queue_capacity=0)
    await asyncio.to_thread(occupy, pool, hold, 1)
    tasks = await in_line(pool, *(outcome(pool, number) for number in range(3)))
    pool.shutdown(wait=False)
    async with asyncio.timeout(PATIENCE):
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(error) for error in errors] == [PoolClosedError] * 3
    stats = check(pool.stats())
    assert (stats.submitted, stats.running, stats.dropped[Reason.CLOSED]) == (1, 1, 3)


async def test_two_kinds_of_waiters_share_one_line(make_pool: MakePool, hold: BlockingTask) -> None:
    """Threads and coroutines are let in by the same order of coming."""
    pool = make_pool(1, queue_capacity=0)
    await asyncio.to_thread(occupy, pool, hold, 1)
    line = WatchedWaiters(pool)
    ran: list[int] = []
    waiting: list[asyncio.Task[None]] = []

    async def from_the_loop(number: int) -> None:
        await (await pool.submit_async(ran.append, number))

    def from_a_thread(number: int) -> None:
        pool.submit_wait(ran.append, number).result(PATIENCE)

    for number in range(6):
        if number % 2:
            waiting.append(asyncio.create_task(asyncio.to_thread(from_a_thread, number)))
        else:
            waiting.append(asyncio.create_task(from_the_loop(number)))
        await asyncio.to_thread(line.wait)
    hold.release()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting)
    assert ran == list(range(6))


def test_waiters_of_a_closed_loop(make_pool: MakePool, hold: BlockingTask) -> None:
    """Waiters whose event loop was closed under them hold no place and stop nobody behind them."""
    pool = make_pool(1, queue_capacity=2)
    occupy(pool, hold, 1)
    queued = [pool.submit(int) for _ in range(2)]
    loop = asyncio.new_event_loop()
    ran: list[int] = []
    line = WatchedWaiters(pool)
    orphans = [loop.create_task(pool.submit_async(ran.append, number)) for number in range(300)]
    loop.run_until_complete(asyncio.sleep(0))
    line.wait(300)
    loop.close()
    # Each freed place goes to an orphan, whose task is cancelled at once, and so on to the end of the line.
    assert queued[0].cancel()
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.CANCELLED]) == (303, 1, 301)
    assert line.length == 0
    assert pool.submit(lambda: 7).cancel()
    hold.release()
    assert pool.stop(PATIENCE).drained
    assert not ran
    # Nobody will ever finish them: have asyncio say nothing about it.
    for task in orphans:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        task.get_coro().close()


async def test_executor_of_a_loop(make_pool: MakePool) -> None:
    """``loop.run_in_executor`` takes the pool and a view of it."""
    pool = make_pool(2)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(pool, lambda: 7) == 7
    assert await loop.run_in_executor(pool.options(task="view"), lambda: 8) == 8


def test_a_waiter_collected_under_the_pools_lock(make_pool: MakePool, hold: BlockingTask) -> None:
    """The collector may come across an abandoned coroutine in the very thread that holds the pool's lock."""
    pool = make_pool(1, queue_capacity=0)
    occupy(pool, hold, 1)
    line = WatchedWaiters(pool)
    coroutine = pool.submit_async(int)
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    line.wait()
    with pool._engine.dispatcher.lock:
        coroutine.close()  # what the collector does
    waiting._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    until(lambda: check(pool.stats()).dropped[Reason.FULL])  # which is counted once it is out of the line
    assert (line.length, pool.stats().dropped[Reason.FULL]) == (0, 1)
