"""What may be in a stop's way, and is not: callbacks and log sinks that hang, pauses, waiters in line."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import structlog

from prodpool import (
    InstrumentedPool,
    PoolClosedError,
    Reason,
    Result,
    WorkerLostError,
    current_task,
)
from prodpool.shutdown import phases
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import LEEWAY, PATIENCE, ThreadRunner, until
from tests.support import Logs, MakePool

# Seconds beyond the deadline that a stop waits for a sink or a callback, as it does outside of these tests.
WAITS = phases.REPORT_GRACE


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Return what a sink or a callback waits for; it is set in the end."""
    event = threading.Event()
    yield event
    event.set()


def test_done_callback_that_hangs(make_pool: MakePool, stuck: threading.Event) -> None:
    """The task is finished and counted; its worker is given up and named for what holds it."""
    pool = make_pool(1)
    begun, called = threading.Event(), threading.Event()

    def call_back(future: object) -> None:
        called.set()
        stuck.wait()

    future = pool.options(task="quick").submit(begun.wait)
    future.add_done_callback(call_back)
    begun.set()
    assert called.wait(PATIENCE)
    report = pool.stop(0.1)
    assert report.abandoned == ("a done-callback of quick",)
    assert report.elapsed < 0.1 + LEEWAY
    assert future.result(0) is True
    assert check(pool.stats()).completed[Result.OK] == 1
    stuck.set()
    until(lambda: not pool._engine.dispatcher.worker_set.workers)


@pytest.mark.parametrize("event", ["pool.draining", "pool.drain_deadline", "task.abandoned", "pool.stopped"])
def test_log_sink_that_hangs(
    make_pool: MakePool,
    hold: BlockingTask,
    stuck: threading.Event,
    event: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sink that hangs in any line of the stop holds the caller for no more than a second."""
    monkeypatch.setattr(phases, "REPORT_GRACE", WAITS)

    def sink(_logger: object, _method: str, entry: Any) -> Any:
        if entry["event"] == event:
            stuck.wait()
        raise structlog.DropEvent

    logger = structlog.wrap_logger(None, processors=[sink], wrapper_class=structlog.BoundLogger)
    pool = make_pool(1, logger=logger)
    occupy(pool, hold, 1)
    queued = pool.submit(int)
    began = time.monotonic()
    report = pool.stop(0.1)
    assert time.monotonic() - began < 0.1 + 1.0 + LEEWAY
    assert (report.drained, report.dropped, len(report.abandoned)) == (False, 1, 1)
    assert queued.cancelled()
    assert counts_add_up(pool.stats())


def test_done_callback_of_a_dropped_task_that_hangs(
    make_pool: MakePool, hold: BlockingTask, stuck: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is exact all the same, the last line is written, and the other futures are settled."""
    monkeypatch.setattr(phases, "REPORT_GRACE", WAITS)
    pool = make_pool(1)
    occupy(pool, hold, 1)
    dropped = [pool.submit(int) for _ in range(2)]
    dropped[0].add_done_callback(lambda _: stuck.wait())
    began = time.monotonic()
    report = pool.stop(0.1)
    assert time.monotonic() - began < 0.1 + 1.0 + LEEWAY
    assert (report.dropped, len(report.abandoned)) == (2, 1)
    assert all(future.cancelled() for future in dropped)
    stuck.set()


def test_task_inside_task_inside_task(make_pool: MakePool, stuck: threading.Event) -> None:
    """Of tasks that wait for one another in one worker, all are asked to end and none is waited for."""
    pool = make_pool(1, queue_capacity=5)
    futures: list[Any] = []
    tokens: list[threading.Event] = []
    innermost = threading.Event()

    def nest(depth: int) -> None:
        current = current_task()
        assert current is not None
        tokens.append(current.cancelled)
        if depth:
            futures.append(pool.submit(nest, depth - 1))
            futures[-1].result()
        else:
            innermost.set()
            stuck.wait()

    futures.append(pool.submit(nest, 3))
    assert innermost.wait(PATIENCE)
    report = pool.stop(0.05)
    assert len(report.abandoned) == pool.stats().abandoned == 4
    assert [token.is_set() for token in tokens] == [True] * 4
    for future in futures:
        with pytest.raises(WorkerLostError):
            future.result(0)
    stuck.set()
    until(lambda: not pool._engine.dispatcher.worker_set.workers)


def test_paused(make_pool: MakePool) -> None:
    """What waits in a paused pool runs when it is stopped."""
    pool = make_pool(2)
    pool.pause()
    futures = [pool.submit(int) for _ in range(4)]
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed, report.dropped) == (True, 4, 0)
    assert [future.result(0) for future in futures] == [0] * 4
    pool.pause()  # of no more effect than on any stopped pool
    assert pool.stop() is report


def test_waiting_threads(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner) -> None:
    """Threads in line for a slot are refused at once when the stop begins, and counted as that."""
    pool = make_pool(1, queue_capacity=1, overload="block")
    line = WatchedWaiters(pool)
    occupy(pool, hold, 1)
    pool.submit(int)
    waiting = [crew.start(submit, int) for submit in (pool.submit, pool.submit_wait) for _ in range(2)]
    line.wait(4)
    pool.shutdown(wait=False)
    for each in waiting:
        with pytest.raises(PoolClosedError):
            each.result(PATIENCE)
    hold.release()
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed, report.dropped) == (True, 2, 0)
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.CLOSED], stats.offered) == (2, 4, 6)


async def test_waiting_coroutines(make_pool: MakePool, hold: BlockingTask) -> None:
    """So are a hundred coroutines."""
    pool = make_pool(1, queue_capacity=1)
    line = WatchedWaiters(pool)
    pool.submit(hold)
    await asyncio.to_thread(hold.wait_started)
    pool.submit(int)
    waiting = [asyncio.create_task(pool.submit_async(int)) for _ in range(100)]
    await asyncio.to_thread(line.wait, 100)
    pool.shutdown(wait=False)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(answer) for answer in answers} == {PoolClosedError}
    hold.release()
    assert await asyncio.to_thread(lambda: pool.stop(PATIENCE).drained)
    assert check(pool.stats()).dropped[Reason.CLOSED] == 100


def test_never_used(make_pool: MakePool, logs: Logs) -> None:
    """A pool that never ran anything stops at once."""
    report = make_pool(4).stop(PATIENCE)
    assert (report.drained, report.completed, report.dropped, report.abandoned) == (True, 0, 0, ())
    assert report.elapsed < LEEWAY
    assert logs.events == ["pool.created", "pool.draining", "pool.stopped"]


def test_shared_backend(make_pool: MakePool, hold: BlockingTask, logs: Logs) -> None:
    """A backend that is not the pool's own goes on, also when a task of the pool hangs in it."""
    with ThreadPoolExecutor(2) as shared:
        pool = InstrumentedPool(shared, name="guest", max_workers=1, own_backend=False, logger=logs.logger)
        occupy(pool, hold, 1)
        assert len(pool.stop(0.05).abandoned) == 1
        assert shared.submit(int).result(PATIENCE) == 0
        hold.release()
    pool.close_metrics()


def test_the_applications_own_task_in_the_backend(make_pool: MakePool, hold: BlockingTask) -> None:
    """What the application itself gave to the backend is not the pool's to wait for beyond the deadline."""
    backend = ThreadPoolExecutor(2)
    pool = InstrumentedPool(backend, name="tenant", drain_deadline=0.1)
    foreign = backend.submit(hold)
    hold.wait_started()
    assert pool.submit(int).result(PATIENCE) == 0
    began = time.monotonic()
    report = pool.stop()
    assert time.monotonic() - began < 0.1 + 1.0 + LEEWAY
    assert (report.drained, report.abandoned) == (True, ())
    hold.release()
    foreign.result(PATIENCE)
    pool.close_metrics()


def storm(pool: InstrumentedPool, start: threading.Barrier) -> int:
    """Submit and cancel until the pool is closed; return how many tasks were let in."""
    admitted = 0
    start.wait(PATIENCE)
    try:
        while True:
            future = pool.options(wait=PATIENCE).submit(int)
            admitted += 1
            if admitted % 3 == 0:
                future.cancel()
    except PoolClosedError:
        return admitted


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 50, 500])
def test_hammered(make_pool: MakePool, crew: ThreadRunner, after: int) -> None:
    """Stops in the middle of a storm of submits and cancels keep every count exact."""
    for _ in range(10):
        pool = make_pool(4, queue_capacity=8)
        start = threading.Barrier(9)
        storms = [crew.start(storm, pool, start) for _ in range(8)]
        start.wait(PATIENCE)
        while pool.stats().submitted < after:
            time.sleep(0)
        report = pool.stop(PATIENCE)
        admitted = sum(each.result(PATIENCE) for each in storms)
        stats = check(pool.stats())
        assert report.drained
        assert (stats.submitted, stats.in_flight, stats.dropped[Reason.CLOSED]) == (admitted, 0, 8)
