"""A pool over `InlineExecutor`: each task runs in the thread that submits it, and all else is a pool's."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from prodpool import (
    BreakerOpenError,
    BreakerPolicy,
    InstrumentedPool,
    PoolClosedError,
    PoolFullError,
    Result,
    TaskExpiredError,
    current_task,
)
from prodpool.testing import InlineExecutor, ManualClock, flush_telemetry
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import ThreadRunner, until
from tests.support import Logs

COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")
MakeInline = Callable[..., InstrumentedPool]


@pytest.fixture
def make_inline(registry: CollectorRegistry, logs: Logs) -> Iterator[MakeInline]:
    """Build pools over an `InlineExecutor`, and stop them after the test."""
    pools: list[InstrumentedPool] = []

    def make(workers: int = 1, **options: Any) -> InstrumentedPool:
        options = {"name": "inline", "registry": registry, "logger": logs.logger} | options
        pools.append(InstrumentedPool(InlineExecutor(workers), **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.resume()
        pool.stop(deadline=1.0)
        pool.close_metrics()


def fail() -> None:
    raise TaskError("no")


def test_a_task_has_run_when_submit_returns(make_inline: MakeInline) -> None:
    """The task runs in the submitting thread, the main one or another; its future is done, it is counted."""
    pool = make_inline()
    future = pool.submit(threading.current_thread)
    assert future.done()
    assert future.result(0) is threading.main_thread()
    assert pool.stats().completed[Result.OK] == 1
    others = ThreadRunner()
    done = others.start(lambda: (pool.submit(threading.current_thread), threading.current_thread()))
    other, thread = done.result(20)
    assert other.result(0) is thread
    others.join()
    assert pool.submit(fail).exception(0).__class__ is TaskError
    assert check(pool.stats()).completed[Result.ERROR] == 1
    assert pool.stop().drained


@pytest.mark.parametrize("give", [InlineExecutor(3), InlineExecutor], ids=["executor", "factory"])
def test_the_size_is_the_executors(give: Any, registry: CollectorRegistry) -> None:
    """A pool takes the executor's size, as over threads, or calls the class with its own."""
    workers = 3 if give is InlineExecutor else None
    with InstrumentedPool(give, name="sized", max_workers=workers, registry=registry) as pool:
        assert pool.stats().workers == 3
        assert [future.done() for future in [pool.submit(int) for _ in range(5)]] == [True] * 5
        if give is not InlineExecutor:
            with pytest.raises(ValueError, match="max_workers=4 is more than the 3 workers"):
                pool.resize(4)
        pool.resize(2)
        assert pool.submit(int).done()
    with pytest.raises(ValueError, match="prefetch=1 is for backends"):
        InstrumentedPool(InlineExecutor(), name="sized", prefetch=1, registry=registry)


def test_every_way_to_submit_runs_at_once(make_inline: MakeInline) -> None:
    """submit_wait, views, map and the coroutines all run the task at once, in the submitting thread."""
    pool = make_inline()
    assert pool.submit_wait(int, "3").done()
    assert pool.options(task="named", wait=1.0, deadline=5.0).submit(int).done()
    assert list(pool.map(pow, range(50), [2] * 50)) == [number**2 for number in range(50)]
    assert {future.result() for future in as_completed([pool.submit(int, text) for text in "12"])} == {1, 2}

    async def on_a_loop() -> None:
        assert await pool.run(threading.get_ident) == threading.get_ident()
        assert await (await pool.submit_async(int, "5")) == 5
        with pytest.raises(TaskError):
            await pool.run(fail)
        futures = await asyncio.gather(*(pool.run(int, str(number)) for number in range(20)))
        assert futures == list(range(20))

    asyncio.run(on_a_loop())
    assert check(pool.stats()).in_flight == 0


def test_a_task_sees_what_a_pool_gives_it(make_inline: MakeInline) -> None:
    """It has a copy of the submitter's context variables, and `current_task` with name, pool and limits."""
    pool = make_inline()

    def look() -> tuple[str, str, str, bool]:
        task = current_task()
        assert task is not None
        seen = COLOUR.get()
        COLOUR.set("blue")
        return seen, task.name, task.pool, task.cancelled.is_set()

    token = COLOUR.set("red")
    assert pool.options(task="look").submit(look).result() == ("red", "look", "inline", False)
    assert COLOUR.get() == "red"
    COLOUR.reset(token)
    assert current_task() is None


def test_around_and_context_are_those_of_the_pool(make_inline: MakeInline) -> None:
    """``around`` is entered about each task in its thread; in an empty context no variable is seen."""
    steps: list[object] = []

    @contextmanager
    def around() -> Iterator[None]:
        steps.append(("enter", threading.current_thread()))
        yield
        steps.append("leave")

    pool = make_inline(around=around, context="empty")
    token = COLOUR.set("red")
    pool.submit(lambda: steps.append(COLOUR.get()))
    COLOUR.reset(token)
    assert steps == [("enter", threading.current_thread()), "none", "leave"]


def test_a_chain_of_tasks_is_no_recursion(make_inline: MakeInline) -> None:
    """A task that another submits runs when that has ended: chains may be longer than the stack is deep."""
    pool, order = make_inline(), list[str]()

    def step(left: int) -> None:
        order.append(f"begin {left}")
        if left:
            assert not pool.submit(step, left - 1).done()
        order.append(f"end {left}")

    pool.submit(step, 2 * sys.getrecursionlimit())
    assert order[:4] == [
        f"{what} {2 * sys.getrecursionlimit() - n}" for n in (0, 1) for what in ("begin", "end")
    ]
    assert order[-1] == "end 0"
    assert check(pool.stats()).completed[Result.OK] == 2 * sys.getrecursionlimit() + 1


def test_a_task_waits_for_another(make_inline: MakeInline) -> None:
    """A task runs one that it waits for inside itself; with two workers it need not wait."""
    pool = make_inline()

    def outer() -> tuple[bool, str | None, str | None]:
        inner = pool.submit(current_task)
        before = inner.done()
        inner.result()
        return before, getattr(inner.result(0), "pool", None), getattr(current_task(), "name", None)

    assert pool.submit(outer).result(0) == (False, "inline", outer.__qualname__)
    wide = make_inline(2, name="wide")
    assert wide.submit(lambda: wide.submit(int).done()).result(0)
    assert wide.submit(lambda: wide.submit(lambda: wide.submit(int).done()).result()).result(0) is False
    check(wide.stats())


def test_a_busy_pool_queues_and_refuses(make_inline: MakeInline) -> None:
    """While its worker is taken, a pool queues what it may and refuses the rest; then it runs the queue."""
    pool = make_inline(queue_capacity=2)
    taken: list[Future[int]] = []

    def spread() -> str:
        taken.extend(pool.submit(int) for _ in range(2))
        with pytest.raises(PoolFullError) as full:
            pool.submit(int)
        with pytest.raises(PoolFullError):
            pool.submit_wait(int)  # it would wait for itself
        return str(full.value)

    assert "2 of 2 waiting places are taken" in pool.submit(spread).result(0)
    assert [future.result(0) for future in taken] == [0, 0]
    assert check(pool.stats()).offered == 5


def test_threads_share_the_workers(make_inline: MakeInline) -> None:
    """Of two threads that submit to one worker, the second's task is queued, and the first one runs it."""
    pool, task, others = make_inline(), BlockingTask(), ThreadRunner()
    first = others.start(lambda: (pool.submit(task), threading.current_thread()))
    task.wait_started()
    second = pool.submit(threading.current_thread)
    assert not second.done()
    third = others.start(lambda: pool.options(wait=20.0).submit(int).result(20))
    task.release()
    assert second.result(20) is first.result(20)[1]
    assert third.result(20) == 0
    others.join()
    until(lambda: check(pool.stats()).in_flight == 0)


def test_each_thread_runs_its_own(make_inline: MakeInline) -> None:
    """With a worker for each of them, threads run what they submit themselves, before submit returns."""
    pool, others = make_inline(4), ThreadRunner()

    def load() -> bool:
        return all(pool.submit(threading.get_ident).result(0) == threading.get_ident() for _ in range(500))

    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-6)
        loads = [others.start(load) for _ in range(4)]
        assert [each.result(30) for each in loads] == [True] * 4
    finally:
        sys.setswitchinterval(interval)
    others.join()


def test_many_threads_at_once(make_inline: MakeInline) -> None:
    """Threads that submit and wait at the same time lose no task and have none twice."""
    pool, others, ran = make_inline(3, queue_capacity=4), ThreadRunner(), list[int]()

    def keep(number: int) -> int:
        ran.append(number)
        return number

    def load(number: int) -> list[int]:
        return [pool.submit_wait(keep, 100 * number + each).result(20) for each in range(100)]

    loads = [others.start(load, number) for number in range(6)]
    assert [load.result(30) for load in loads] == [[100 * n + each for each in range(100)] for n in range(6)]
    others.join()
    assert sorted(ran) == list(range(600))
    until(lambda: check(pool.stats()).in_flight == 0)
    assert pool.stop().drained


def test_pause_holds_tasks_and_resume_runs_them(make_inline: MakeInline) -> None:
    """What a paused pool queues can be cancelled, or expire; `resume` runs the rest in its own thread."""
    clock = ManualClock()
    pool = make_inline(4, queue_capacity=4, clock=clock)
    pool.pause()
    kept, cancelled = pool.submit(threading.current_thread), pool.submit(int)
    expired = pool.options(deadline=5.0).submit(int)
    assert not kept.done()
    assert cancelled.cancel()
    clock.advance(6.0)
    pool.resume()
    assert kept.result(0) is threading.current_thread()
    with pytest.raises(TaskExpiredError):
        expired.result(20)
    check(pool.stats())


def test_metrics_breaker_logs_and_spans_are_those_of_a_pool(
    make_inline: MakeInline, registry: CollectorRegistry, logs: Logs
) -> None:
    """What a pool counts, logs, traces and refuses is exact at once, by a clock that the test moves."""
    clock, spans, provider = ManualClock(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    policy = BreakerPolicy(consecutive_failures=2, open_for=30.0)
    pool = make_inline(clock=clock, breaker=policy, tracer_provider=provider, slow_after=1.0)
    pool.options(task="slow").submit(clock.advance, 2.5)
    labels = {"pool": "inline"}
    assert registry.get_sample_value("workerpool_slow_tasks_total", labels) == 1
    assert registry.get_sample_value("workerpool_task_duration_seconds_sum", labels) == 2.5
    for _ in range(2):
        pool.submit(fail)
    with pytest.raises(BreakerOpenError) as refused:
        pool.submit(int)
    assert refused.value.retry_after == 30.0
    clock.advance(30.0)
    assert pool.submit(int).done()
    assert pool.stats().breaker == "closed"
    assert flush_telemetry(pool)
    assert logs.events.count("task.error") == 2
    assert spans.get_finished_spans()[0].name == "workerpool.task slow"
    provider.shutdown()


def test_callbacks_are_made_before_submit_returns(make_inline: MakeInline) -> None:
    """A callback of a task that waits for its turn is made in this thread; one that raises harms nothing."""
    pool, made = make_inline(), list[threading.Thread]()

    def outer() -> None:
        pool.submit(int).add_done_callback(lambda _: made.append(threading.current_thread()))
        pool.submit(int).add_done_callback(lambda _: fail())

    pool.submit(outer)
    assert made == [threading.current_thread()]
    assert check(pool.stats()).completed[Result.OK] == 3


def test_interrupts_reach_the_thread(make_inline: MakeInline) -> None:
    """Ctrl-C in a task is raised by submit, when the queue has been run; SystemExit is the future's alone."""
    pool, after = make_inline(), list[Future[int]]()

    def interrupted() -> None:
        after.append(pool.submit(int))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.submit(interrupted)
    assert after[0].result(0) == 0
    assert isinstance(pool.submit(sys.exit).exception(0), SystemExit)
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.running) == (2, 0)


def test_at_the_end_of_the_stack(make_inline: MakeInline) -> None:
    """Submitting with hardly any stack left raises, or the task runs all the same; none is lost."""
    pool, futures, refused = make_inline(hung_after=0.2, queue_capacity=300), list[Future[int]](), list[int]()

    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            futures.append(pool.submit(int))

    for depth in range(sys.getrecursionlimit() - 250, sys.getrecursionlimit()):
        try:
            at(depth)
        except RecursionError:
            refused.append(depth)
    assert futures
    assert refused
    assert {future.result(20) for future in futures} == {0}
    until(lambda: check(pool.stats()).in_flight == 0)
    assert pool.stop().drained


def test_a_stop_drains_in_a_thread_of_its_own(make_inline: MakeInline) -> None:
    """A stop runs what a paused pool has queued, keeps its deadline, and names what it gives up."""
    pool = make_inline()
    pool.pause()
    future = pool.submit(threading.current_thread)
    report = pool.stop()
    assert (report.drained, report.completed) == (True, 1)
    assert future.result(0).name == "prodpool-inline-inline"
    with pytest.raises(PoolClosedError):
        pool.submit(int)
    hanging, task = make_inline(name="hanging"), BlockingTask()
    hanging.pause()
    left = hanging.submit(task, 1)
    stopped = hanging.stop(deadline=0.1)
    assert (stopped.drained, stopped.abandoned) == (False, ("BlockingTask",))
    assert left.exception(0) is not None
    task.release()


def test_the_backend_is_shut_down_with_the_pool(make_inline: MakeInline, registry: CollectorRegistry) -> None:
    """A pool shuts its own executor down, and leaves a shared one alone."""
    executor = InlineExecutor()
    with InstrumentedPool(executor, name="shared", own_backend=False, registry=registry) as pool:
        pool.submit(int)
    assert executor.submit(int).done()
    with InstrumentedPool(executor, name="own", registry=registry) as pool:
        pool.submit(int)
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(int)


def test_stop_and_wait_idle_inside_a_task_are_refused(make_inline: MakeInline) -> None:
    """A task cannot wait for its own end; `shutdown(wait=False)` closes the pool behind it."""
    pool = make_inline()
    for call in (pool.stop, pool.wait_idle):
        assert isinstance(pool.submit(call).exception(0), RuntimeError)
    assert pool.wait_idle(0)
    pool.submit(lambda: pool.shutdown(wait=False)).result(0)
    assert pool.stop().drained


def test_inside_another_pools_task(make_inline: MakeInline, make_pool: Any) -> None:
    """A task of a pool of threads submits to one that runs inline, and is itself again after that."""
    pool, threads = make_inline(), make_pool(1)

    def names() -> list[str | None]:
        outer = getattr(current_task(), "pool", None)
        inner = pool.submit(lambda: getattr(current_task(), "pool", None)).result(0)
        return [outer, inner, getattr(current_task(), "pool", None)]

    assert threads.submit(names).result(20) == ["test", "inline", "test"]
