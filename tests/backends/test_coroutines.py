"""What asyncio asks of a pool, over every backend: a cancelled task is told, a coroutine is no result."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from pathlib import Path
from typing import Any

import pytest

from prodpool import Reason, Result
from prodpool.task.task import DEFAULT_OPTIONS, Task
from prodpool.workers.processes.remote_worker import RemoteWorker
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, over_processes
from tests.helpers.accounting import check
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
# Where a task can be told while it runs.
can_tell = pytest.mark.parametrize("kind", [*over_processes, "threads"], indirect=True)
only_processes = pytest.mark.parametrize("kind", over_processes, indirect=True)


def began(mark: Path) -> None:
    until(mark.exists)


@can_tell
def test_a_cancelled_task_is_told(make_pool: MakePool, tmp_path: Path) -> None:
    """Cancelling the future of a running task says False, tells the task, and leaves its result alone."""
    pool = make_pool(2)
    mark, other = tmp_path / "told", tmp_path / "other"
    future = pool.submit(work.until_asked, str(mark))
    beside = pool.submit(work.until_asked, str(other))
    began(mark)
    began(other)
    assert not future.cancel()
    assert future.result(PATIENCE) is True
    assert not future.cancelled()
    assert beside.running()
    assert not beside.cancel()
    assert beside.result(PATIENCE) is True
    # What the worker runs next is not told of it.
    assert [pool.submit(work.asked).result(PATIENCE) for _ in range(8)] == [False] * 8
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.dropped[Reason.CANCELLED]) == (10, 0)


@can_tell
async def test_a_request_that_times_out(make_pool: MakePool, tmp_path: Path) -> None:
    """A coroutine whose wait is over, or is cancelled, leaves a task that knows."""
    pool = make_pool(1)
    ways: dict[str, Callable[[Callable[[str], Any], str], Awaitable[Any]]] = {
        "run": pool.run,
        "submit_async": lambda fn, mark: _twice(pool.submit_async(fn, mark)),
        "wrap_future": lambda fn, mark: asyncio.wrap_future(pool.submit(fn, mark)),
        "run_in_executor": lambda fn, mark: asyncio.get_running_loop().run_in_executor(pool, fn, mark),
    }
    for name, way in ways.items():
        mark = tmp_path / name
        waiting = asyncio.ensure_future(way(work.until_asked, str(mark)))
        await asyncio.to_thread(began, mark)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # It ended by itself: nothing else would end it, and the next would wait for ever.
        assert await asyncio.wait_for(pool.run(int), PATIENCE) == 0


async def _twice(submitting: Awaitable[Awaitable[Any]]) -> Any:
    return await (await submitting)


@only_processes
def test_cancelled_behind_another(make_pool: MakePool, held: Held) -> None:
    """A task that was sent ahead and is cancelled there is told when it begins, and no other is."""
    pool = make_pool(1, queue_capacity=20, prefetch=10)
    pool.submit(int).result(PATIENCE)
    first = held.submit(pool)
    behind = [pool.submit(work.asked) for _ in range(10)]
    held.wait_running(1)
    cancelled = [future.cancel() for future in behind[::2]]
    held.let_go()
    assert first.result(PATIENCE)
    told = [None if future.cancelled() else future.result(PATIENCE) for future in behind]
    assert told[1::2] == [False] * 5
    # One that was still with the pool never ran.
    assert [one is None for one in told[::2]] == cancelled
    check(pool.stats())


def test_only_the_call_that_runs_is_told() -> None:
    """A process is told of the call that it runs, by its number, and of none that may still be withdrawn."""
    told: list[int] = []

    class Connection:
        def cancel(self, number: int, patience: float) -> None:
            assert not patience
            told.append(number)

    def task() -> Task:
        return Task(int, (), {}, Context(), 0.0, DEFAULT_OPTIONS)

    worker, first, second = RemoteWorker("test", lambda: 0.0), task(), task()
    worker.forward_cancel(first)
    worker.connection = Connection()  # type: ignore[assignment]
    worker.task = first
    worker.forward_cancel(first)
    assert told == []
    for each in (first, second):
        worker.note_sent(each, 10)
    worker.forward_cancel(second)
    assert told == []
    worker.forward_cancel(first)
    assert told == [1]
    worker.note_answered()
    worker.forward_cancel(first)
    worker.forward_cancel(second)
    assert told == [1]
    worker.task = second
    worker.forward_cancel(second)
    assert told == [1, 2]


@pytest.mark.parametrize("kind", [pytest.param("dask", marks=pytest.mark.once)], indirect=True)
def test_cancelled_where_it_cannot_be_told(make_pool: MakePool, held: Held) -> None:
    """Where the pool has no way to a running task, cancel() says False, and the task goes on."""
    pool = make_pool(1)
    future = held.submit(pool)
    held.wait_running(1)
    assert not future.cancel()
    held.let_go()
    assert future.result(PATIENCE)


def test_a_coroutine_is_no_result(make_pool: MakePool) -> None:
    """An `async def` function is refused, and what returns a coroutine fails, with the same way out."""
    pool = make_pool(1)
    with pytest.raises(TypeError, match="fetch is an async def function"):
        pool.submit(work.fetch)
    with pytest.raises(TypeError, match="fetch is an async def function"):
        pool.map(work.fetch, [1, 2], chunksize=2)
    error = pool.submit(work.make_fetch).exception(PATIENCE)
    assert isinstance(error, TypeError)
    assert "make_fetch returned a coroutine" in str(error)
    assert pool.submit(abs, -7).result(PATIENCE) == 7
