"""Pause, resume and resize: what runs, what waits, and that law and bounds hold at each step."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolFullError, Reason, Result
from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, fill, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner, until
from tests.support import Logs, MakePool


class Late(ThreadPoolExecutor):
    """A backend whose threads are all taken until `come`, so that loops are started and do not come up."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.come = threading.Event()
        for _ in range(workers):
            self.submit(self.come.wait, PATIENCE)


def late_pool(registry: CollectorRegistry, workers: int, capacity: int) -> tuple[InstrumentedPool, Late]:
    backend = Late(workers)
    pool = InstrumentedPool(backend, name="test", queue_capacity=capacity, registry=registry)
    return pool, backend


# pause and resume


def test_paused_pool_starts_nothing(make_pool: MakePool, hold: BlockingTask) -> None:
    """While paused, running tasks go on, the queue fills up to its bound, and nothing is started."""
    pool = make_pool(2, queue_capacity=4)
    (running,) = occupy(pool, hold, 1)
    pool.pause()
    ran: list[int] = []
    queued = [pool.submit(ran.append, number) for number in range(4)]
    with pytest.raises(PoolFullError):
        pool.submit(int)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (1, 4)
    hold.release()
    assert running.result(PATIENCE) is None
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (0, 4)
    assert not ran
    pool.resume()
    for future in queued:
        future.result(PATIENCE)
    assert sorted(ran) == [0, 1, 2, 3]
    assert check(pool.stats()).in_flight == 0


def test_paused_from_the_start(make_pool: MakePool) -> None:
    """A pool paused before its first task starts no worker, and as many as are needed on resume."""
    pool = make_pool(3, queue_capacity=6)
    pool.pause()
    meeting = threading.Barrier(3)
    futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(6)]
    assert not pool._engine.dispatcher.worker_set.workers
    pool.resume()
    assert sorted(future.result(PATIENCE) for future in futures) == [0, 0, 1, 1, 2, 2]


def test_pause_and_resume_may_be_repeated(make_pool: MakePool) -> None:
    """Pausing twice or resuming a running pool changes nothing; one resume is enough."""
    pool = make_pool(1)
    pool.resume()
    pool.pause()
    pool.pause()
    future = pool.submit(lambda: 7)
    assert not future.done()
    pool.resume()
    pool.resume()
    assert future.result(PATIENCE) == 7


def test_resume_wakes_parked_workers_and_the_line(make_pool: MakePool) -> None:
    """On resume the parked workers take what is queued, and who stands in line moves up, in order."""
    pool = make_pool(1, queue_capacity=2)
    pool.submit(int).result(PATIENCE)
    pool.pause()
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(2)]
    waiting = []
    for number in range(2, 6):
        waiting.append(crew.start(pool.submit_wait, ran.append, number))
        line.wait()
    pool.resume()
    for future in [*futures, *(each.result(PATIENCE) for each in waiting)]:
        future.result(PATIENCE)
    crew.join()
    assert ran == list(range(6))


def test_cancelling_in_a_paused_pool(make_pool: MakePool) -> None:
    """Cancelling gives places back in a paused pool too."""
    pool = make_pool(1, queue_capacity=2)
    pool.pause()
    for _ in range(3):
        for future in [pool.submit(int) for _ in range(2)]:
            assert future.cancel()
    stats = check(pool.stats())
    assert (stats.queued, stats.dropped[Reason.CANCELLED]) == (0, 6)


def test_paused_while_a_worker_comes_up(registry: CollectorRegistry) -> None:
    """A pause while the first worker is starting leaves no more tasks waiting than may wait."""
    pool, backend = late_pool(registry, 1, 1)
    futures = [pool.submit(int) for _ in range(2)]
    check(pool.stats())
    pool.pause()
    backend.come.set()
    futures[0].result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.queued, stats.completed[Result.OK]) == (1, 1)
    assert not futures[1].done()
    pool.resume()
    futures[1].result(PATIENCE)
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_stop_ends_a_pause(make_pool: MakePool) -> None:
    """Stopping a paused pool drains it, and a pause that comes after that is too late to hold it up."""
    pool = make_pool(1, queue_capacity=3)
    pool.pause()
    hold = BlockingTask()
    futures = [pool.submit(hold, 7), pool.submit(lambda: 8)]
    pool.shutdown(wait=False)
    hold.wait_started()
    pool.pause()
    hold.release()
    assert pool.stop(PATIENCE).drained
    assert [future.result(0) for future in futures] == [7, 8]


# resize


def test_resize_down_and_up(make_pool: MakePool, logs: Logs) -> None:
    """After a resize exactly that many tasks run at once, counted by the tasks themselves."""
    pool = make_pool(4, queue_capacity=40)
    for workers in (2, 4, 1, 3):
        pool.resize(workers)
        lock, now, peak = threading.Lock(), 0, 0
        meeting = threading.Barrier(workers)

        def task(meeting: threading.Barrier = meeting, lock: threading.Lock = lock) -> None:
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            meeting.wait(PATIENCE)
            with lock:
                now -= 1

        for future in [pool.submit(task) for _ in range(workers * 5)]:
            future.result(PATIENCE)
        assert peak == workers
        assert check(pool.stats()).workers == workers
    logs.wait_for("pool.resized", count=4)
    entries = logs.named("pool.resized")
    assert [(entry["old"], entry["new"]) for entry in entries] == [(4, 2), (2, 4), (4, 1), (1, 3)]


def test_resize_never_interrupts(make_pool: MakePool) -> None:
    """Tasks that run when the pool is made smaller end well; their workers go after that."""
    pool = make_pool(3, queue_capacity=5)
    hold = BlockingTask()
    running = [pool.submit(hold, number) for number in range(3)]
    hold.wait_started(3)
    pool.resize(1)
    stats = pool.stats()
    assert (stats.workers, stats.running) == (1, 3)
    queued = [pool.submit(lambda number=number: number) for number in range(5)]  # type: ignore[misc]
    hold.release()
    assert [future.result(PATIENCE) for future in running] == [0, 1, 2]
    assert [future.result(PATIENCE) for future in queued] == list(range(5))
    until(lambda: len(pool._engine.dispatcher.worker_set.workers) == 1)
    check(pool.stats())


def test_resize_up_starts_what_waits(make_pool: MakePool, hold: BlockingTask) -> None:
    """Making the pool larger starts queued tasks and lets in who stands in line, with no further submit."""
    pool = make_pool(3, max_workers=1, queue_capacity=1)
    occupy(pool, hold, 1)
    queued = pool.submit(hold)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = crew.start(pool.submit_wait, hold)
    line.wait()
    pool.resize(3)
    hold.wait_started(2)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (3, 0)
    hold.release()
    assert queued.result(PATIENCE) is None
    assert waiting.result(PATIENCE).result(PATIENCE) is None
    crew.join()


def test_resize_while_workers_come_up(registry: CollectorRegistry) -> None:
    """Made smaller while workers are starting, the pool has no more tasks waiting than may wait."""
    pool, backend = late_pool(registry, 2, 1)
    hold = BlockingTask()
    futures = [pool.submit(hold, number) for number in range(3)]
    check(pool.stats())
    pool.resize(1)
    backend.come.set()
    hold.wait_started()
    assert pool.stats().queued <= 1
    hold.release()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2]
    check(pool.stats())
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_resize_of_a_paused_pool(make_pool: MakePool) -> None:
    """A paused pool may be resized and starts nothing; after resume the new size holds."""
    pool = make_pool(4, max_workers=2, queue_capacity=8)
    pool.pause()
    meeting = threading.Barrier(4)
    futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(4)]
    pool.resize(4)
    assert check(pool.stats()).running == 0
    pool.resume()
    assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2, 3]


def test_resize_beyond_the_backend(make_pool: MakePool) -> None:
    """A ThreadPoolExecutor's own size bounds the pool; threads of our own grow."""
    pool = make_pool(2)
    with pytest.raises(ValueError, match="max_workers=3 is more than the 2 workers"):
        pool.resize(3)
    assert pool.stats().workers == 2


def test_own_threads_grow(registry: CollectorRegistry) -> None:
    """``prodpool.threads`` can be made larger than it was built."""
    with prodpool.threads(name="grows", max_workers=1, queue_capacity=20, registry=registry) as pool:
        pool.resize(8)
        meeting = threading.Barrier(8)
        futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(8)]
        assert sorted(future.result(PATIENCE) for future in futures) == list(range(8))
        pool.resize(1)
        assert len(fill(pool, int)) >= 1
    pool.close_metrics()
