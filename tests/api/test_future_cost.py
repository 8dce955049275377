"""A future is cheap while nobody waits for it, and keeps nothing that is no longer needed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, wait
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from prodpool import InstrumentedPool, PoolFuture, TaskExpiredError
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until_collected
from tests.support import MakePool


class Thing:
    """Something to hold on to; unlike a string it can be referred to weakly."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the garbage collector off: what is freed then is freed by its reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def settle_down(pool: InstrumentedPool) -> None:
    """Have the pool's only worker run something else, so that it holds nothing of the task before."""
    pool.submit(bool).result(PATIENCE)


def give(thing: Thing, *, other: Thing | None = None) -> Thing:
    return thing


def fail(thing: Thing, *, other: Thing | None = None) -> Thing:
    raise ValueError("fail")


def test_no_condition_until_somebody_asks(make_pool: MakePool, gate: BlockingTask) -> None:
    """submit, result, exception, cancel and callbacks make no Condition; wait and as_completed do."""
    pool = make_pool(1)
    plain, cancelled, called = pool.submit(gate), pool.submit(bool), pool.submit(bool)
    cancelled.cancel()
    called.add_done_callback(lambda _: None)
    with pytest.raises(TimeoutError):
        plain.result(0.001)
    gate.release()
    assert plain.exception(PATIENCE) is None
    called.result(PATIENCE)
    assert [future._cond for future in (plain, cancelled, called)] == [None] * 3
    wait([plain])
    list(as_completed([called]))
    assert [isinstance(future._cond, threading.Condition) for future in (plain, called)] == [True, True]


@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
@pytest.mark.parametrize("fn", [give, fail])
@pytest.mark.usefixtures("no_collector")
def test_a_finished_task_keeps_nothing(make_pool: MakePool, fn: Callable[..., Thing], traced: bool) -> None:
    """Once a task has finished and its future is gone, its arguments and its result are free."""
    pool = make_pool(1, tracer_provider=TracerProvider(shutdown_on_exit=False) if traced else None)
    thing, other = Thing(), Thing()
    alive = weakref.WeakSet([thing, other])
    future = pool.submit(fn, thing, other=other)
    future.exception(PATIENCE)
    del future, thing, other
    settle_down(pool)
    assert not alive


@pytest.mark.usefixtures("no_collector")
def test_a_future_keeps_its_result_and_not_its_arguments(make_pool: MakePool) -> None:
    """A future that is kept keeps the result alone; its arguments are free."""
    pool = make_pool(1)
    result, argument = Thing(), Thing()
    seen = weakref.ref(argument)
    future = pool.submit(give, result, other=argument)
    assert future.result(PATIENCE) is result
    del argument
    settle_down(pool)
    assert seen() is None
    assert future.result() is result


def cancelled(pool: InstrumentedPool, clock: ManualClock, thing: Thing) -> PoolFuture[Any]:
    future = pool.submit(give, thing)
    assert future.cancel()
    return future


def expired(pool: InstrumentedPool, clock: ManualClock, thing: Thing) -> PoolFuture[Any]:
    future = pool.options(deadline=1.0).submit(give, thing)
    clock.advance(2.0)
    pool._engine.settlement.drop_expired()
    assert isinstance(future.exception(PATIENCE), TaskExpiredError)
    return future


def shut_down(pool: InstrumentedPool, clock: ManualClock, thing: Thing) -> PoolFuture[Any]:
    future = pool.submit(give, thing)
    pool.shutdown(wait=False, cancel_futures=True)
    wait([future], PATIENCE)
    return future


@pytest.mark.parametrize("drop", [cancelled, expired, shut_down])
def test_a_dropped_task_keeps_nothing(
    make_pool: MakePool,
    gate: BlockingTask,
    drop: Callable[[InstrumentedPool, ManualClock, Thing], PoolFuture[Any]],
) -> None:
    """The arguments of a task that never ran are free, although its future is kept and the queue is busy."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    pool.submit(gate)
    gate.wait_started()
    thing = Thing()
    alive = weakref.WeakSet([thing])
    future = drop(pool, clock, thing)
    assert future.done()
    del thing
    until_collected(lambda: not alive)


@pytest.mark.usefixtures("no_collector")
def test_a_task_run_by_its_caller_keeps_nothing(make_pool: MakePool, gate: BlockingTask) -> None:
    """Arguments and result of a task that its submitter ran are free once its future is gone."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    pool.submit(gate)
    gate.wait_started()
    thing = Thing()
    alive = weakref.WeakSet([thing])
    assert pool.submit(give, thing).result(0) is thing
    del thing
    assert not alive


@pytest.mark.usefixtures("no_collector")
def test_an_idle_worker_keeps_no_context(make_pool: MakePool) -> None:
    """A parked worker does not hold on to the last task it ran."""
    pool = make_pool(1)
    settle_down(pool)
    settle_down(pool)
    with pool._engine.dispatcher.lock:
        parked = [worker.task for worker in pool._engine.dispatcher.worker_set.parked]
    assert parked == [None] * len(parked)
