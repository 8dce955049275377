"""What was offered, what a stop gave up, and which threads were started: exact, also for several pools."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import BreakerOpenError, BreakerPolicy, InstrumentedPool, PoolFullError, WorkerLostError
from prodpool.testing import InlineExecutor
from tests.helpers.accounting import check_counters, scrape
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner, until
from tests.support import Logs, MakePool
from tests.telemetry.scraping import value


def raises() -> None:
    raise LookupError


def started(registry: CollectorRegistry, pool: str = "test") -> float:
    return value(registry, "workerpool_workers_started_total", pool=pool)


def refused(samples: dict[str, float], pool: str) -> float:
    reasons = ("full", "closed", "breaker_open")
    return sum(samples[f'workerpool_dropped_total{{pool="{pool}",reason="{reason}"}}'] for reason in reasons)


# Offered


def test_offered_in_a_storm(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """In each scrape offered is submitted plus refused, of three pools of one name while threads submit."""
    pools = [
        make_pool(1, name="busy", queue_capacity=0),
        make_pool(1, name="busy", queue_capacity=2, breaker=BreakerPolicy(consecutive_failures=3)),
        make_pool(1, name="busy"),
    ]
    pools[2].stop()
    calls, over, runner = [0] * 3, threading.Event(), ThreadRunner()

    def hammer(number: int) -> None:
        for turn in range(300):
            calls[number] += 1
            try:
                pools[number].submit(raises if turn % 3 else int)
            except (PoolFullError, BreakerOpenError, prodpool.PoolClosedError):
                continue

    def look() -> None:
        before: dict[str, float] = {}
        while True:
            last, now = over.is_set(), scrape(registry)
            offered = now['workerpool_offered_total{pool="busy"}']
            assert offered == now['workerpool_submitted_total{pool="busy"}'] + refused(now, "busy")
            check_counters(before, now)
            before = now
            if last:
                return

    looking = runner.start(look)
    for each in [runner.start(hammer, number) for number in range(3)]:
        each.result(PATIENCE)
    over.set()
    looking.result(PATIENCE)
    runner.join()
    assert value(registry, "workerpool_offered_total", pool="busy") == sum(calls) == 900
    assert refused(scrape(registry), "busy") >= 300
    assert sum(pool.stats().offered for pool in pools) == 900


# Abandoned


def test_a_stop_that_gives_tasks_up(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask
) -> None:
    """Each is counted when its future fails, once, as the report says; it is running until it ends."""
    pool = make_pool(2)
    hung = occupy(pool, gate, 2)
    pool.submit(int)
    seen: list[float] = []
    hung[0].add_done_callback(lambda _: seen.append(value(registry, "workerpool_abandoned_total")))
    assert pool.stats().abandoned == 0
    report = pool.stop(0.0)
    assert all(isinstance(future.exception(0), WorkerLostError) for future in hung)
    stats = pool.stats()
    assert (stats.abandoned, len(report.abandoned), stats.running) == (2, 2, 2)
    assert pool.stop(0.0) is report
    until(lambda: seen)
    assert seen[0] >= 1
    gate.release()
    until(lambda: pool.stats().in_flight == 0)
    assert value(registry, "workerpool_abandoned_total") == 2
    assert sum(pool.stats().completed.values()) == 2


def test_a_task_that_ends_at_the_deadline(make_pool: MakePool) -> None:
    """What ends when it is asked to is not abandoned."""
    pool, begun = make_pool(1), threading.Event()

    def cooperates() -> bool:
        task = prodpool.current_task()
        assert task is not None
        begun.set()
        return task.cancelled.wait(PATIENCE)

    future = pool.submit(cooperates)
    assert begun.wait(PATIENCE)
    report = pool.stop(0.0)
    assert future.exception(PATIENCE) is None or report.abandoned
    assert pool.stats().abandoned == len(report.abandoned)


def test_a_task_inside_another_is_given_up_too(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that waits for another one which it runs itself: both are counted, and both are named."""
    pool = make_pool(1)

    def outer() -> None:
        pool.options(task="inner").submit(gate).result(PATIENCE)

    pool.options(task="outer").submit(outer)
    gate.wait_started()
    report = pool.stop(0.0)
    assert report.abandoned == ("outer", "inner")
    assert pool.stats().abandoned == 2


def test_a_callback_is_no_task(make_pool: MakePool, gate: BlockingTask) -> None:
    """A done-callback that hangs is named by the report and not counted: its task has ended."""
    pool, go = make_pool(1), threading.Event()
    future: Future[Any] = pool.submit(go.wait, PATIENCE)
    future.add_done_callback(gate)
    go.set()
    gate.wait_started()
    assert [name.startswith("a done-callback of") for name in pool.stop(0.0).abandoned] == [True]
    assert pool.stats().abandoned == 0


# Threads that were started


def test_a_pool_for_each_request(registry: CollectorRegistry, logs: Logs) -> None:
    """Five pools of one name have started ten threads for two workers; that stays when they are gone."""

    def request(number: int) -> None:
        task = BlockingTask()
        pool = prodpool.threads(name="request", max_workers=2, registry=registry, logger=logs.logger)
        occupy(pool, task, 2)
        assert started(registry, "request") == 2 * number
        task.release()
        pool.stop(PATIENCE)

    for number in range(1, 6):
        request(number)
    gc.collect()
    assert started(registry, "request") == 10
    assert value(registry, "workerpool_workers", pool="request") == 2


def test_one_pool_for_all_requests(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool that is kept starts as many threads as it has workers, whatever it runs."""
    pool = make_pool(2)
    for _ in range(200):
        pool.submit(int).result(PATIENCE)
    assert 1 <= started(registry) <= 2


def test_a_thread_of_an_executor_is_counted_once(registry: CollectorRegistry, logs: Logs) -> None:
    """The thread of an executor that pools share, one after the other, was started once."""
    with ThreadPoolExecutor(1) as shared:
        for _ in range(4):
            options: Any = {"registry": registry, "logger": logs.logger, "own_backend": False}
            pool = InstrumentedPool(shared, name="test", **options)
            pool.submit(int).result(PATIENCE)
            pool.stop(PATIENCE)
    assert started(registry) == 1


class OnlySubmit:
    """An executor of unknown kind, with a thread of its own."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)

    def submit(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        return self._executor.submit(fn, *args)

    def shutdown(self, wait: bool = True) -> None:
        self._executor.shutdown(wait)


@pytest.mark.parametrize("build", [InlineExecutor, OnlySubmit])
def test_no_workers_of_its_own(registry: CollectorRegistry, logs: Logs, build: Callable[[], Any]) -> None:
    """Where tasks run in their submitter's thread, or in another executor's, no worker is started."""
    options: Any = {"max_workers": 1, "registry": registry, "logger": logs.logger}
    pool = InstrumentedPool(build(), name="test", **options)
    assert pool.submit(int).result(PATIENCE) == 0
    pool.stop(PATIENCE)
    assert started(registry) == 0


def test_threads_that_do_not_come_up(registry: CollectorRegistry, logs: Logs) -> None:
    """A thread whose initializer fails is lost before its first task."""
    backend = ThreadPoolExecutor(1, initializer=raises)
    pool = InstrumentedPool(backend, name="test", registry=registry, logger=logs.logger)
    assert isinstance(pool.submit(int).exception(PATIENCE), WorkerLostError)
    assert value(registry, "workerpool_workers_lost_total", cause="start") == 1
    assert started(registry) == 0
    pool.stop(1.0)
