"""A `RecordingPool`, a pool over `InlineExecutor` and one over a thread answer the same to the same calls."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple, NoReturn

import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolClosedError, current_task
from prodpool.testing import InlineExecutor, RecordingPool
from tests.helpers.tasks import TaskError

COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")
AnyPool = InstrumentedPool | RecordingPool
Behaviour = Callable[[AnyPool], object]


class Raised(NamedTuple):
    """What a call raised, in a form that two calls can be compared by."""

    kind: type[BaseException]
    text: str


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returned, or what it raised; what differs from run to run is left out."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001
        return Raised(type(error), re.sub(r" at 0x\w+", "", str(error)))


def fail(error: BaseException) -> NoReturn:
    raise error


async def coroutine() -> None: ...


def refused_calls(pool: AnyPool) -> object:
    not_callable: Any = 3
    calls: list[Callable[[], object]] = [
        partial(pool.submit, coroutine),
        partial(pool.submit, partial(coroutine)),
        partial(pool.submit_wait, not_callable),
        lambda: pool.map(coroutine, [1]),
        lambda: pool.map(int, ["1"], chunksize=0),
        lambda: pool.options(deadline=0),
        lambda: pool.options(timeout=-1.0),
        lambda: pool.options(wait=float("nan")),
        lambda: pool.options(task="two\nlines"),
        lambda: pool.options(task=not_callable),
        lambda: pool.options(idempotent=not_callable),
        lambda: pool.options(task="view").shutdown(),
    ]
    return [_without_pool(outcome(call)) for call in calls]


def _without_pool(result: object) -> object:
    """Leave out how a pool is shown, which is its own affair."""
    return (
        Raised(result.kind, re.sub(r"<\w+Pool .*?>", "<pool>", result.text))
        if isinstance(result, Raised)
        else result
    )


def results(pool: AnyPool) -> object:
    calls: list[Callable[[], Future[Any]]] = [
        partial(pool.submit, divmod, 7, 2),
        partial(pool.submit, int, "ff", base=16),
        partial(pool.submit, fail, TaskError("no")),
        partial(pool.submit, fail, StopIteration(1)),
        partial(pool.submit, lambda _: coroutine(), 1),
        partial(pool.submit_wait, sum, [1, 2]),
        partial(pool.options(task="named", deadline=60.0).submit, sum, [1]),
    ]
    found = []
    for call in calls:
        future = call()
        found.append(outcome(partial(future.result, 20)))
        assert (future.done(), future.running(), future.cancelled(), future.cancel()) == (
            True,
            False,
            False,
            False,
        )
    return found, isinstance(pool.submit(fail, SystemExit(1)).exception(20), SystemExit)


def inside(pool: AnyPool) -> object:
    """What a task sees of itself, and of the context in which it was submitted."""

    def look() -> list[object]:
        task = current_task()
        assert task is not None
        seen = COLOUR.get()
        COLOUR.set("blue")
        left = None if task.remaining is None else task.remaining > 30
        return [seen, task.name, task.pool, task.attempt, left, task.cancelled.is_set()]

    token = COLOUR.set("red")
    views = [pool.options(), pool.options(task="resize", deadline=60.0, timeout=60.0)]
    seen = [view.submit(look).result(20) for view in views]
    still = COLOUR.get()
    COLOUR.reset(token)
    return seen, still, current_task()


def nested(pool: AnyPool) -> object:
    """The order of tasks that tasks submit, and of those that they wait for."""
    order: list[str] = []
    inner: list[Future[None]] = []

    def outer(wait: bool) -> bool:
        order.append("outer begins")
        inner.append(pool.options(task="inner").submit(order.append, "inner"))
        before = inner[-1].done()
        if wait:
            inner[-1].result()
        order.append("outer ends")
        return before

    before = pool.submit(outer, wait=False).result(20), inner[-1].result(20)
    return before, pool.submit(outer, wait=True).result(20), order


def mapped(pool: AnyPool) -> object:
    many = pool.map(pow, itertools.count(), itertools.repeat(2))
    first = list(itertools.islice(many, 30))
    failing = pool.map(int, ["1", "x", "3"])
    return (
        first,
        next(failing),
        outcome(partial(next, failing)),
        list(pool.map(str, [])),
        list(pool.options(task="chunk").map(str, range(5), chunksize=2, buffersize=1, timeout=20)),
    )


def on_a_loop(pool: AnyPool) -> object:
    async def main() -> object:
        async with asyncio.timeout(20):
            found: list[object] = [await pool.run(divmod, 7, 2), await (await pool.submit_async(int, "3"))]
            found.append(await asyncio.gather(pool.run(fail, TaskError("no")), return_exceptions=True))
            found.append(await asyncio.gather(*(pool.run(int, str(each)) for each in range(20))))
            found.append(outcome(partial(pool.submit_wait, int)))
            found.append(await asyncio.get_running_loop().run_in_executor(pool.options(task="x"), int, "4"))
            return [str(each) for each in found]

    return asyncio.run(main())


def callbacks(pool: AnyPool) -> object:
    made: list[object] = []

    def work() -> int:
        future = pool.submit(int, "5")
        future.add_done_callback(lambda done: made.append(done.result()))
        future.add_done_callback(lambda _: fail(TaskError("in a callback")))
        future.add_done_callback(lambda done: made.append(done is future))
        return future.result()

    futures = [pool.submit(int, "1"), pool.submit(work)]
    return sorted(each.result() for each in as_completed(futures, 20)), made


def cancelled_inside(pool: AnyPool) -> object:
    """A task that waits for its turn is cancelled by the one that submitted it; a running one is told."""

    def work() -> list[object]:
        queued = pool.submit(int)
        found: list[object] = [queued.cancel(), queued.cancelled(), outcome(queued.result), repr(queued)]
        me = current_task()
        assert me is not None
        return [*found, me.cancelled.is_set()]

    return pool.submit(work).result(20)


def stopped(pool: AnyPool) -> object:
    from_inside = [
        outcome(partial(pool.submit(call).result, 20))
        for call in (pool.stop, pool.shutdown, lambda: asyncio.run(pool.stop_async()))
    ]
    with pool:
        pool.submit(int)
    report = pool.stop()
    ends = report.drained, report.dropped, report.abandoned, pool.stop() == report
    with pytest.raises(PoolClosedError) as closed:
        pool.submit(int)
    later = [outcome(partial(pool.submit_wait, int)), outcome(lambda: list(pool.map(int, "12")))]
    return from_inside, ends, str(closed.value), closed.value.retry_after, later


def closed_from_inside(pool: AnyPool) -> object:
    def work() -> tuple[object, Future[int]]:
        following = pool.submit(int, "5")
        pool.shutdown(wait=False)
        return outcome(partial(pool.submit, int)), following

    refused, following = pool.submit(work).result(20)
    return refused, following.result(20), pool.stop().drained


def left_by_async_with(pool: AnyPool) -> object:
    async def main() -> object:
        async with pool as entered:
            assert entered is pool
            found = await pool.run(int, "3")
        return found, outcome(partial(pool.submit, int)), (await pool.stop_async()).drained

    return asyncio.run(main())


BEHAVIOURS: tuple[Behaviour, ...] = (
    refused_calls,
    results,
    inside,
    nested,
    mapped,
    on_a_loop,
    callbacks,
    cancelled_inside,
    stopped,
    closed_from_inside,
    left_by_async_with,
)


def over(backend: Any) -> InstrumentedPool:
    return InstrumentedPool(backend, name="likeness", registry=CollectorRegistry())


@pytest.fixture(params=["recording", "inline"])
def alike(request: pytest.FixtureRequest) -> Iterator[AnyPool]:
    """Return a pool that runs tasks where they are submitted."""
    pool = RecordingPool("likeness") if request.param == "recording" else over(InlineExecutor())
    yield pool
    pool.stop()


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
def test_it_is_like_a_pool_over_one_thread(alike: AnyPool, behaviour: Behaviour) -> None:
    """Results, errors with their texts, order and context are those of a pool over one thread."""
    with over(ThreadPoolExecutor(1)) as real:
        assert behaviour(alike) == behaviour(real)
