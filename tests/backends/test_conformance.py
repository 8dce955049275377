"""One suite for every backend: the pool is the same, whatever runs its tasks."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import (
    InstrumentedPool,
    PoolFullError,
    Reason,
    Result,
    TaskExpiredError,
    UnpicklableError,
    WorkerLostError,
)
from tests.backends import work
from tests.backends.conftest import PATIENCE, PROCESSES, Held, MakePool, over_processes
from tests.helpers.accounting import check, check_scrape, scrape
from tests.helpers.waiting import LEEWAY, until
from tests.support import runs
from tests.telemetry.tracer import Spans, attributes_of, context_of, is_child

pytestmark = [
    pytest.mark.timeout(120),
    # The pool's threads are there when the backend forks its first worker, which is the application's choice.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
REQUEST_ID = f"{work.__name__}:request_id"
only_processes = pytest.mark.parametrize("kind", over_processes, indirect=True)


def test_submit(make_pool: MakePool) -> None:
    """Results come back, and what carries them is a future like any other."""
    pool = make_pool(2, queue_capacity=50)
    futures = [pool.submit(pow, 2, number) for number in range(40)]
    assert all(isinstance(future, Future) for future in futures)
    assert [future.result(PATIENCE) for future in futures] == [2**number for number in range(40)]
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.in_flight) == (40, 40, 0)


def test_map(make_pool: MakePool) -> None:
    """map() yields results in order, and an exception in its turn."""
    pool = make_pool(2)
    assert list(pool.map(abs, range(-20, 0))) == list(range(20, 0, -1))
    results = pool.map(divmod, (4, 4, 4), (2, 0, 1))
    assert next(results) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_in_chunks(make_pool: MakePool) -> None:
    """Over processes a task may make several calls; it counts, is named and fails as one."""
    pool = make_pool(2, queue_capacity=10)
    tasks = 1001 if make_pool.kind == "threads" else 3
    assert list(pool.map(abs, range(-1000, 1), chunksize=400)) == [*range(1000, -1, -1)]
    assert check(pool.stats()).submitted == tasks
    results = pool.map(math.sqrt, [1.0, 4.0, -1.0, 9.0], chunksize=2)
    assert [next(results), next(results)] == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"math domain error|nonnegative"):
        next(results)
    assert make_pool.logs.wait_for("task.error")["task"] == "sqrt"


def test_from_a_coroutine(make_pool: MakePool) -> None:
    """A coroutine waits for a slot and for the result."""
    pool = make_pool(1, queue_capacity=1)

    async def main() -> list[int]:
        futures = [await pool.submit_async(abs, -number) for number in range(10)]
        return [await future for future in futures]

    assert asyncio.run(main()) == list(range(10))


def test_keyword_arguments_of_any_name(make_pool: MakePool) -> None:
    """The function's own keyword arguments reach it, whatever a backend or the pool calls its own."""
    names = "fn self key workers retries priority pure task timeout ticket pool"
    kwargs = dict.fromkeys(names.split(), 1)
    assert make_pool(1).submit(work.echo, **kwargs).result(PATIENCE) == kwargs


def test_equal_calls_run_each(make_pool: MakePool, tmp_path: Path) -> None:
    """Two equal calls are two calls."""
    book = tmp_path / "book"
    pool = make_pool(2, queue_capacity=10)
    wait([pool.submit(work.sign, str(book)) for _ in range(10)], PATIENCE)
    assert len(book.read_text().splitlines()) == 10


def test_an_exception_with_a_mind_of_its_own(make_pool: MakePool) -> None:
    """What a task raised is its outcome, whatever the exception makes of its own methods."""
    pool = make_pool(1)
    with pytest.raises(work.ShyError):
        pool.submit(work.shy).result(PATIENCE)
    with pytest.raises(work.FrozenError):
        pool.submit(work.freeze).result(PATIENCE)
    assert check(pool.stats()).completed[Result.ERROR] == 2


def test_exceptions(make_pool: MakePool) -> None:
    """What a task raises is raised by its future, counted, and logged with its stack."""
    pool = make_pool(1)
    with pytest.raises(work.TaskError, match="in the worker"):
        pool.submit(work.boom).result(PATIENCE)
    line = make_pool.logs.wait_for("task.error")
    assert "in boom" in line["stack"]
    with pytest.raises(SystemExit):
        pool.submit(work.leave).result(PATIENCE)
    make_pool.logs.wait_for("task.panic")
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    stats = check(pool.stats())
    assert (stats.completed[Result.ERROR], stats.completed[Result.PANIC]) == (1, 1)


def test_bounds(make_pool: MakePool, held: Held) -> None:
    """No more run than there are workers, no more wait than may wait, and the next is refused."""
    pool = make_pool(2, queue_capacity=3)
    futures = [held.submit(pool) for _ in range(5)]
    held.wait_running(2)
    with pytest.raises(PoolFullError) as caught:
        pool.submit(int)
    assert (caught.value.queued, caught.value.queue_capacity) == (3, 3)
    stats = check(pool.stats())
    assert (stats.running, stats.queued, stats.workers, stats.queue_capacity) == (2, 3, 2, 3)
    assert held.running() == 2
    held.let_go()
    assert not wait(futures, PATIENCE).not_done
    assert held.most_at_once() == 2
    assert check(pool.stats()).completed[Result.OK] == 5


def test_nothing_may_wait(make_pool: MakePool, held: Held) -> None:
    """With ``queue_capacity=0`` as many tasks are let in as there are workers."""
    pool = make_pool(2, queue_capacity=0)
    for _ in range(2):
        held.submit(pool)
    with pytest.raises(PoolFullError):
        pool.submit(int)
    assert check(pool.stats()).running == 2


def test_cancel(make_pool: MakePool, held: Held) -> None:
    """A task that waits in the pool's queue can be cancelled, one that was handed over cannot."""
    pool = make_pool(1, queue_capacity=5)
    first = held.submit(pool)
    held.wait_running(1)
    waiting = [pool.submit(abs, -number) for number in range(5)]
    assert not first.cancel()
    assert waiting[-1].cancel()
    held.let_go()
    assert [future.result(PATIENCE) for future in waiting[:-1]] == [0, 1, 2, 3]
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.dropped[Reason.CANCELLED]) == (5, 1)


def test_deadline(make_pool: MakePool, held: Held) -> None:
    """A task that waited too long is dropped unrun."""
    pool = make_pool(1, queue_capacity=5, hung_after=0.2)
    held.submit(pool)
    held.wait_running(1)
    late = [pool.options(deadline=0.05).submit(int) for _ in range(3)]
    # The one that a backend prefetched is beyond recall.
    assert isinstance(late[-1].exception(PATIENCE), TaskExpiredError)
    held.let_go()
    wait(late, PATIENCE)
    assert check(pool.stats()).dropped[Reason.EXPIRED] >= 2


def test_pause_and_resume(make_pool: MakePool) -> None:
    """A paused pool hands nothing over."""
    pool = make_pool(1, queue_capacity=3)
    pool.pause()
    futures = [pool.submit(abs, -number) for number in range(3)]
    assert check(pool.stats()).queued == 3
    pool.resume()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2]


def test_the_law_holds_all_the_while(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """In every scrape each admitted task is in exactly one place, and in the end the sums are exact."""
    pool = make_pool(2, queue_capacity=8, overload="block")
    futures: list[Future[Any]] = []
    for number in range(300):
        fn = (work.boom, work.leave, work.pid, work.began)[number % 4]
        futures.append(pool.submit(fn))
        if number % 7 == 0:
            futures[-1].cancel()
        if number % 10 == 0:
            check_scrape(scrape(registry), pool.name)
            check(pool.stats())
    wait(futures, PATIENCE)
    cancelled = sum(future.cancelled() for future in futures)
    stats = check(pool.stats())
    assert stats.in_flight == 0
    assert (stats.submitted, stats.dropped[Reason.CANCELLED]) == (300, cancelled)
    assert sum(stats.completed.values()) == 300 - cancelled


def test_dwell_ends_when_the_task_begins(make_pool: MakePool, held: Held) -> None:
    """A task's dwell is the time until it really began, as it says itself."""
    pool = make_pool(1, queue_capacity=3)
    pool.submit(int).result(PATIENCE)  # the worker is up
    before = pool._engine.dispatcher.counters.dwell.read().total
    came_first = time.monotonic()
    held.submit(pool)
    held.wait_running(1)
    came = time.monotonic()
    future = pool.submit(work.began)
    admitted = time.monotonic()
    time.sleep(0.3)
    held.let_go()
    began = future.result(PATIENCE)
    dwell = pool._engine.dispatcher.counters.dwell.read().total - before
    ((began_first, ended_first),) = held.ran()
    # Both tasks' dwell is counted in between, and that of each was over when it ran.
    assert dwell <= began - came + began_first - came_first + 1e-6
    # It lasted for as long as the other ran. A tenth of that, because the worker's clock is set against the
    # pool's by two looks, between which a busy machine may do something else.
    assert dwell > (ended_first - admitted) / 10


def test_stop_drains(make_pool: MakePool) -> None:
    """A stop lets everything finish that is queued or handed over."""
    pool = make_pool(2, queue_capacity=20)
    futures = [pool.submit(abs, -number) for number in range(20)]
    report = pool.stop(PATIENCE)
    assert (report.drained, report.dropped, report.abandoned) == (True, 0, ())
    assert [future.result(0) for future in futures] == list(range(20))


@pytest.mark.parametrize("kind", PROCESSES, indirect=True)
def test_stop_kills_what_does_not_leave(make_pool: MakePool) -> None:
    """An idle worker process that does not end by the deadline is killed, though all tasks have finished."""
    pool = make_pool(1)
    pid = pool.submit(work.linger).result(PATIENCE)
    until(pool._engine.dispatcher.is_idle)  # who has the result may be ahead of the seat that ran it
    pool.stop(0.1)
    assert make_pool.logs.wait_for("pool.stopped")["drained"]
    # By itself it would stay for twice as long as this waits.
    until(lambda: not runs(pid), PATIENCE)


@only_processes
@pytest.mark.usefixtures("exact_reports")
def test_stop_kills_what_hangs(make_pool: MakePool, tmp_path: Path) -> None:
    """At the deadline worker processes are killed, what they ran is named, and what waited is dropped."""
    pool = make_pool(2, queue_capacity=5)
    marks = [tmp_path / str(number) for number in range(2)]
    hung = [pool.options(task="hangs").submit(work.hang, str(mark)) for mark in marks]
    until(lambda: all(mark.exists() for mark in marks))
    queued = [pool.submit(int) for _ in range(4)]
    report = pool.stop(0.1)
    assert report.elapsed < 0.1 + LEEWAY
    assert (report.drained, report.dropped) == (False, 4)
    assert report.abandoned.count("hangs") == 2
    for future in hung:
        assert isinstance(future.exception(0), WorkerLostError)
    assert all(future.cancelled() for future in queued)
    until(lambda: pool.stats().in_flight == 0)
    check(pool.stats())


@only_processes
def test_a_killed_worker(make_pool: MakePool, held: Held, tmp_path: Path) -> None:
    """A worker that dies takes the task with it that it ran, and no other; another takes its place."""
    pool = make_pool(2, queue_capacity=10)
    go = tmp_path / "go"
    beside = held.submit(pool)
    held.wait_running(1)
    deadly = pool.submit(work.die_at, str(go))
    queued = [pool.submit(abs, -number) for number in range(8)]
    go.touch()
    with pytest.raises(WorkerLostError, match=r"its worker process \d+ ended with exit code 9") as caught:
        deadly.result(PATIENCE)
    assert caught.value.began
    assert [future.result(PATIENCE) for future in queued] == list(range(8))
    held.let_go()
    assert beside.result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.state, stats.submitted, stats.in_flight) == ("open", 10, 0)
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK]) == (1, 9)
    assert make_pool.logs.wait_for("pool.backend_rebuilt")["rebuilds"] == 1


@only_processes
@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("argument 1", (abs, work.DoesNotPickle())),
        ("the call does not load", (abs, work.DoesNotLoad())),
        ("its result", (work.give, "lock")),
        ("its result", (work.give, "unpicklable")),
        ("its outcome does not load", (work.give, "unloadable")),
        ("its outcome does not load", (work.give, "exits on loading")),
    ],
)
def test_what_does_not_pickle(make_pool: MakePool, what: str, call: tuple[Any, ...]) -> None:
    """What cannot travel fails the one task with an error that names it; the pool goes on."""
    pool = make_pool(1)
    with pytest.raises(UnpicklableError) as caught:
        pool.submit(*call).result(PATIENCE)
    assert what in str(caught.value)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert check(pool.stats()).completed[Result.ERROR] == 1


@pytest.mark.parametrize("kind", PROCESSES, indirect=True)
def test_a_lambda_does_not_pickle(make_pool: MakePool) -> None:
    """Where the standard library pickles, a function must have a name that can be imported."""
    with pytest.raises(UnpicklableError, match="the function") as caught:
        make_pool(1).submit(lambda: None).result(PATIENCE)
    assert "importable module" in str(caught.value)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["loky", "dask"], indirect=True)
def test_a_lambda_travels_by_value(make_pool: MakePool) -> None:
    """Where cloudpickle does it, any function will do."""
    there = make_pool(1).submit(lambda: (os.getpid(), "there")).result(PATIENCE)
    assert there != (os.getpid(), "there")


@only_processes
def test_an_argument_that_interrupts_its_pickling(make_pool: MakePool) -> None:
    """Whatever it raises, its task ends with that, and gives its place back: the pool goes on."""
    pool = make_pool(1)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            pool.submit(repr, work.ExitsOnPickling()).result(PATIENCE)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK], stats.in_flight) == (4, 1, 0)


@only_processes
def test_an_exception_that_does_not_load(make_pool: MakePool) -> None:
    """An exception that would break the backend comes home by name, with its stack as text."""
    pool = make_pool(1)
    with pytest.raises(work.StubbornError, match="1 and 2") as caught:
        pool.submit(work.stubborn).result(PATIENCE)
    assert "in stubborn" in str(caught.value.__cause__)
    assert pool.submit(abs, -1).result(PATIENCE) == 1


def test_many_at_once_from_many_pools(make_pool: MakePool) -> None:
    """Pools side by side do not mix up each other's tasks."""
    pools: list[InstrumentedPool] = [make_pool(1, queue_capacity=20) for _ in range(2)]
    futures = [(number, pools[number % 2].submit(abs, -number)) for number in range(40)]
    assert all(future.result(PATIENCE) == number for number, future in futures)


def test_context_variables(make_pool: MakePool) -> None:
    """Those that are asked for are set to what they were at submit; others only threads see."""
    sees_all = make_pool.kind in {"threads", "other"}
    pool = make_pool(1, context_vars=[REQUEST_ID])
    contextvars.Context().run(_use_context_variables, pool, sees_all=sees_all)


def _use_context_variables(pool: InstrumentedPool, *, sees_all: bool) -> None:
    assert pool.submit(work.seen).result(PATIENCE) == ("nothing", "nothing")
    for token in ("a", "b"):
        work.request_id.set(token)
        work.unasked.set(token)
        future = pool.submit(work.seen)
        work.request_id.set("too late")
        assert future.result(PATIENCE) == (token, token if sees_all else "nothing")
    # What was set for one task is not there for the next.
    assert contextvars.Context().run(pool.submit, work.seen).result(PATIENCE) == ("nothing", "nothing")


@only_processes
def test_a_context_variable_that_does_not_pickle(make_pool: MakePool) -> None:
    """It fails the task with an error that names it."""
    pool = make_pool(1, context_vars=[REQUEST_ID])
    context = contextvars.Context()
    context.run(work.request_id.set, work.DoesNotPickle())
    with pytest.raises(UnpicklableError, match=r"context variable '.*:request_id' \(a DoesNotPickle\)"):
        context.run(pool.submit, int).result(PATIENCE)


def test_one_trace_across_the_boundary(make_pool: MakePool) -> None:
    """What is current in the worker is the task's span, a child of the one that was current at submit."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)
    with spans.tracer.start_as_current_span("request"):
        seen = pool.options(task="look").submit(work.span)
    trace_id, span_id = seen.result(PATIENCE)
    task = spans.named("workerpool.task look")
    assert (context_of(task).trace_id, context_of(task).span_id) == (trace_id, span_id)
    assert is_child(task, spans.named("request"))
    with spans.tracer.start_as_current_span("another"):
        failed = pool.options(task="fails").submit(work.boom)
    assert failed.exception(PATIENCE)
    assert attributes_of(spans.named("workerpool.task fails"))["workerpool.result"] == "error"
