"""The four contracts that any production pool wrapper must keep, and the eight properties of a pool.

Source: the reference documents' "Test" section and its appendix "Verifiable Properties of a Production Pool".
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, Reason, Result, WorkerLostError
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import LEEWAY, PATIENCE
from tests.support import Logs, MakePool, child_processes, still_there


def boom() -> None:
    raise TaskError("it broke")


# The four bedrock tests.


def test_normal_flow(make_pool: MakePool) -> None:
    """A hundred tasks submitted to four workers have all run when the pool has stopped."""
    pool = make_pool(4, queue_capacity=100)
    counter = itertools.count()
    futures = [pool.submit(next, counter) for _ in range(100)]
    report = pool.stop(PATIENCE)
    assert next(counter) == 100
    assert sorted(future.result(0) for future in futures) == list(range(100))
    assert (report.drained, report.dropped, report.abandoned) == (True, 0, ())
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.state) == (100, 100, "stopped")


def test_full_queue(make_pool: MakePool, hold: BlockingTask) -> None:
    """One worker, capacity 5: a blocker and five more are accepted, the next is refused."""
    pool = make_pool(1, queue_capacity=5)
    accepted = [pool.submit(hold)]
    hold.wait_started()
    accepted += [pool.submit(int) for _ in range(5)]
    with pytest.raises(PoolFullError) as caught:
        pool.submit(int)
    error = caught.value
    assert (error.pool, error.reason, error.queued, error.queue_capacity) == ("test", Reason.FULL, 5, 5)
    assert error.retry_after is not None
    assert error.retry_after > 0
    stats = check(pool.stats())
    assert (stats.submitted, stats.running, stats.queued, stats.offered) == (6, 1, 5, 7)
    assert stats.dropped[Reason.FULL] == 1
    hold.release()
    assert [future.result(PATIENCE) for future in accepted] == [None, 0, 0, 0, 0, 0]


def test_full_queue_before_the_first_worker_is_up(make_pool: MakePool, hold: BlockingTask) -> None:
    """The bound is exact also for a burst that comes before any worker has started."""
    pool = make_pool(1, queue_capacity=5)
    accepted = [pool.submit(hold) for _ in range(6)]
    with pytest.raises(PoolFullError):
        pool.submit(hold)
    check(pool.stats())
    hold.release()
    assert [future.result(PATIENCE) for future in accepted] == [None] * 6


@pytest.mark.parametrize(
    ("error", "event", "level", "result"),
    [
        (TaskError("it broke"), "task.error", "warning", Result.ERROR),
        (SystemExit("it broke"), "task.panic", "error", Result.PANIC),
    ],
    ids=["error", "panic"],
)
def test_raising_task(
    make_pool: MakePool, logs: Logs, error: BaseException, event: str, level: str, result: Result
) -> None:
    """A task that raises is logged with its stack although nobody reads its future; the worker lives on."""

    def raise_it() -> None:
        raise error

    pool = make_pool(1, queue_capacity=10)
    pool.options(task="panicker").submit(raise_it)
    assert pool.submit(lambda: 7).result(PATIENCE) == 7
    entry = logs.wait_for(event)
    assert (entry["task"], entry["log_level"], entry["pool"]) == ("panicker", level, "test")
    assert "raise_it" in entry["stack"]
    assert "it broke" in entry["stack"]
    pool.stop(PATIENCE)
    stats = check(pool.stats())
    assert (stats.completed[result], stats.completed[Result.OK]) == (1, 1)


def test_stop_deadline(registry: CollectorRegistry, logs: Logs) -> None:
    """Stopping with a 100 ms deadline returns although a task never ends, and says which one."""
    pool = InstrumentedPool(
        ThreadPoolExecutor(1), name="test", queue_capacity=100, registry=registry, logger=logs.logger
    )
    hold = BlockingTask()
    hung = pool.options(task="slow").submit(hold)
    hold.wait_started()
    queued = pool.submit(int)
    began = time.monotonic()
    report = pool.stop(deadline=0.1)
    elapsed = time.monotonic() - began
    assert elapsed < 0.1 + LEEWAY
    assert (report.drained, report.dropped, report.abandoned) == (False, 1, ("slow",))
    assert report.elapsed >= 0.1
    with pytest.raises(CancelledError):
        queued.result(0)
    with pytest.raises(WorkerLostError):
        hung.result(0)
    assert counts_add_up(pool.stats())
    hold.release()
    pool.close_metrics()


# The eight properties.


def test_no_leaks(make_pool: MakePool) -> None:
    """After a stop no thread of pool or backend is left, and none keeps growing with the tasks."""
    before = set(threading.enumerate())
    pool = make_pool(8, queue_capacity=1_000)
    futures = [pool.submit(int) for _ in range(500)]
    assert all(future.result(PATIENCE) == 0 for future in futures)
    names = {thread.name for thread in set(threading.enumerate()) - before}
    assert len(names - {"prodpool-watchdog", "prodpool-log-test"}) <= 8
    pool.stop(PATIENCE)
    # Its report comes from the stop's own thread, which ends just after that.
    assert still_there(before, child_processes()) == ([], [])


def test_all_tasks_run(make_pool: MakePool) -> None:
    """With an unhurried stop the number of completed tasks equals the number of submitted ones."""
    pool = make_pool(4, queue_capacity=2_000)
    for number in range(2_000):
        pool.submit(boom if number % 10 == 0 else int)
    assert pool.stop(PATIENCE).drained
    stats = check(pool.stats())
    assert stats.submitted == sum(stats.completed.values()) == 2_000
    assert stats.completed[Result.ERROR] == 200


def test_no_tasks_beyond_cap(make_pool: MakePool) -> None:
    """Never do more tasks run at once than there are workers, counted by the tasks themselves."""
    workers = 3
    pool = make_pool(workers, queue_capacity=300)
    lock, now, peak = threading.Lock(), 0, 0
    meeting = threading.Barrier(workers)

    def task() -> None:
        nonlocal now, peak
        with lock:
            now += 1
            peak = max(peak, now)
        meeting.wait(PATIENCE)  # only `workers` at once get through, so fewer would hang
        with lock:
            now -= 1

    futures = [pool.submit(task) for _ in range(workers * 50)]
    for future in futures:
        future.result(PATIENCE)
    assert peak == workers


def test_nothing_running_is_lost_on_stop(make_pool: MakePool, hold: BlockingTask) -> None:
    """A stop with nothing queued lets the running tasks complete."""
    pool = make_pool(2)
    futures = [pool.submit(hold, number) for number in range(2)]
    hold.wait_started(2)
    pool.shutdown(wait=False)
    hold.release()
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed, report.dropped, report.abandoned) == (True, 2, 0, ())
    assert [future.result(0) for future in futures] == [0, 1]


def test_submit_never_waits_when_it_may_refuse(make_pool: MakePool, hold: BlockingTask) -> None:
    """On a full pool that rejects, every one of many submitters has its answer while no task ends."""
    pool = make_pool(1, queue_capacity=1)
    pool.submit(hold)
    hold.wait_started()
    answers: list[str] = []

    def submitter() -> None:
        for _ in range(100):
            try:
                pool.submit(int)
                answers.append("accepted")
            except PoolFullError:
                answers.append("refused")

    threads = [threading.Thread(target=submitter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert (answers.count("accepted"), answers.count("refused")) == (1, 799)


def test_idempotent_shutdown(make_pool: MakePool) -> None:
    """Stopping twice, shutting down after that, and leaving ``with`` all return the one report."""
    pool = make_pool(2)
    with pool:
        pool.submit(int)
        first = pool.stop(PATIENCE)
    assert pool.stop(PATIENCE) == first
    pool.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(PoolClosedError):
        pool.submit(int)
    assert pool.stats().dropped[Reason.CLOSED] == 1


def test_thread_safe_submit(make_pool: MakePool, switching: None) -> None:
    """Many submitters at once corrupt nothing: each task runs once and answers its own submitter."""
    pool = make_pool(4, queue_capacity=16)
    start = threading.Barrier(16)
    wrong: list[object] = []

    def submitter(number: int) -> None:
        start.wait(PATIENCE)
        for turn in range(50):
            got = pool.submit_wait(lambda *key: key, number, turn).result(PATIENCE)
            if got != (number, turn):
                wrong.append(got)

    threads = [threading.Thread(target=submitter, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not wrong
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.in_flight) == (800, 800, 0)


@pytest.mark.parametrize(
    "error", [TaskError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(4)], ids=repr
)
def test_isolation(make_pool: MakePool, hold: BlockingTask, error: BaseException) -> None:
    """What one task raises, however bare, ends neither the other tasks nor its worker."""

    def raise_it() -> None:
        raise error

    pool = make_pool(2, queue_capacity=100)
    leased: Any = pool._engine.workers
    leased._linger = PATIENCE  # or a worker that has nothing to do for a second goes
    other = pool.submit(hold, "unharmed")
    hold.wait_started()
    failing = [pool.submit(raise_it) for _ in range(20)]
    expected = RuntimeError if isinstance(error, StopIteration) else type(error)
    for future in failing:
        assert isinstance(future.exception(PATIENCE), expected)
    assert pool.submit(lambda: 7).result(PATIENCE) == 7
    hold.release()
    assert other.result(PATIENCE) == "unharmed"
    assert len(pool._engine.dispatcher.worker_set.workers) == 2
