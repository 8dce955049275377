"""Code that wants a ThreadPoolExecutor, or what one has, gets along with a pool."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import pytest
from dask.delayed import delayed
from prometheus_client import CollectorRegistry
from tornado.ioloop import IOLoop

import prodpool
from prodpool import InstrumentedPool, PoolClosedError, PoolFullError
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


def test_it_is_one(make_pool: MakePool) -> None:
    """It is a ThreadPoolExecutor, whose calls are tasks of the pool, and has no thread of its own."""
    pool = make_pool(2, name="mail")
    view = pool.as_thread_pool()
    assert isinstance(view, ThreadPoolExecutor)
    assert view.submit(threading.current_thread).result(PATIENCE) in threading.enumerate()
    assert list(view.map(abs, range(-20, 0))) == list(range(20, 0, -1))
    assert pool.stats().submitted == 21
    assert "'mail'" in repr(view)
    assert not view._threads


def test_it_is_as_bounded(make_pool: MakePool, gate: BlockingTask) -> None:
    """A full pool refuses what is submitted through it."""
    view = make_pool(1, queue_capacity=1).as_thread_pool()
    futures = [view.submit(gate) for _ in range(2)]
    with pytest.raises(PoolFullError):
        view.submit(gate)
    gate.release()
    assert all(future.result(PATIENCE) is None for future in futures)


def test_to_shut_it_down_stops_the_pool(make_pool: MakePool) -> None:
    """Who is handed a ThreadPoolExecutor for its own ends it."""
    pool = make_pool(1)
    with pool.as_thread_pool() as view:
        assert view.submit(len, "mail").result(PATIENCE) == 4
    with pytest.raises(PoolClosedError):
        pool.submit(len, "")


def test_it_is_no_backend(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool over it would be a pool over a pool."""
    with pytest.raises(TypeError, match="is a pool already"):
        InstrumentedPool(make_pool(1).as_thread_pool(), name="other", registry=registry)


def test_the_default_executor_of_a_loop(registry: CollectorRegistry) -> None:
    """asyncio.to_thread submits to the pool, by the name of the function; the end of asyncio.run stops it."""
    pool = prodpool.threads(name="default", max_workers=2, registry=registry)

    async def main() -> list[int]:
        asyncio.get_running_loop().set_default_executor(pool.as_thread_pool())
        return await asyncio.gather(*(asyncio.to_thread(len, word) for word in ("a", "bc")))

    assert asyncio.run(main()) == [1, 2]
    assert (pool.stats().submitted, pool.stats().state) == (2, "stopped")


def test_tornado(make_pool: MakePool) -> None:
    """Tornado's loop runs calls on a pool that it is given, and on one that is its default."""
    pool = make_pool(2)

    async def main() -> list[int]:
        loop = IOLoop.current()
        given = loop.run_in_executor(pool, len, "a")
        loop.set_default_executor(pool.as_thread_pool())
        return [await given, await loop.run_in_executor(None, len, "bc")]

    assert asyncio.run(main()) == [1, 2]
    assert (pool.stats().submitted, pool.stats().state) == (2, "stopped")


def test_dask_in_threads(make_pool: MakePool) -> None:
    """Dask's threaded scheduler runs a graph on the pool."""
    pool = make_pool(2)
    numbers: Any = [delayed(abs)(-number) for number in range(8)]
    with dask.config.set(pool=pool, scheduler="threads"):
        assert delayed(sum)(numbers).compute() == 28
    assert pool.stats().submitted == 9
