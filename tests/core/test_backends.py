"""Leased threads: shared backends, loops that go and come again, backends that break or are taken away."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import (
    InstrumentedPool,
    PoolBrokenError,
    PoolClosedError,
    PoolFullError,
    Reason,
    Result,
    WorkerLostError,
)
from prodpool.workers.threads.leased import MAX_LEASE
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, fill, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner, until
from tests.support import Logs, MakePool


@pytest.fixture
def shared() -> Iterator[ThreadPoolExecutor]:
    """A backend of one thread that belongs to the test."""
    with ThreadPoolExecutor(1) as backend:
        yield backend


request = ContextVar("request", default="none")


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry the submitter's context into the thread, as OpenTelemetry's ThreadingInstrumentor does."""
    submit = ThreadPoolExecutor.submit

    def wrapper(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return submit(self, copy_context().run, fn, *args, **kwargs)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", wrapper)


@pytest.mark.usefixtures("agent")
def test_an_agent_replaces_submit(registry: CollectorRegistry) -> None:
    """A ThreadPoolExecutor is known as one, and no thread keeps the context of the request that needed it."""
    with InstrumentedPool(ThreadPoolExecutor(2), name="test", registry=registry) as pool:
        assert pool._engine.abilities.leased
        token = request.set("first")
        assert pool.submit(request.get).result(PATIENCE) == "first"
        request.reset(token)
        assert pool.submit(request.get).result(PATIENCE) == "none"
        seen: list[str] = []
        gate = BlockingTask()
        future = pool.submit(gate)
        future.add_done_callback(lambda _: seen.append(request.get()))
        gate.release()
        pool.stop(PATIENCE)
        assert seen == ["none"]


def leased(pool: InstrumentedPool) -> Any:
    """Return the pool's loops, to look inside."""
    return pool._engine.workers


class Departures:
    """Tells when worker loops have given their thread back.

    How many have is no sign that all have: one that comes up before the task it was started for is offered
    may go again, and another be started.
    """

    def __init__(self, pool: InstrumentedPool, linger: float = 0.01) -> None:
        self._worker_set = pool._engine.dispatcher.worker_set
        leased(pool)._linger = linger
        self._left = threading.Semaphore(0)
        leave = pool._engine.dispatcher.retire_idle

        def watched(worker: Any) -> bool:
            gone = leave(worker)
            if gone:
                self._left.release()
            return gone

        pool._engine.dispatcher.retire_idle = watched  # type: ignore[method-assign]

    def wait(self, count: int = 1) -> None:
        """Wait until ``count`` more loops have given their thread back, and none is left."""
        for _ in range(count):
            assert self._left.acquire(timeout=PATIENCE), "no loop gave its thread back"
        until(lambda: not self._worker_set.workers)


# shared backends


def share(backend: ThreadPoolExecutor, name: str, registry: CollectorRegistry) -> InstrumentedPool:
    return InstrumentedPool(
        backend,
        name=name,
        queue_capacity=10_000,
        registry=registry,
        own_backend=False,
        drain_deadline=PATIENCE,
    )


def test_two_pools_share_one_thread(shared: ThreadPoolExecutor, registry: CollectorRegistry) -> None:
    """Two busy pools on one thread take turns: neither waits until the other has nothing more to do."""
    pools = [share(shared, name, registry) for name in ("first", "second")]
    turns: list[str] = []
    both_ready = threading.Event()
    shared.submit(both_ready.wait, PATIENCE)
    futures = []
    for pool in pools:
        leased(pool)._now = itertools.count().__next__  # each task uses up a turn
        futures += [pool.submit(turns.append, pool.name) for _ in range(300)]
    both_ready.set()
    for future in futures:
        future.result(PATIENCE)
    assert sum(one != other for one, other in itertools.pairwise(turns)) == 599
    for pool in pools:
        assert check(pool.stats()).completed[Result.OK] == 300
        assert pool.stop(PATIENCE).drained
        pool.close_metrics()


def test_an_idle_loop_is_no_longer_in_the_way_than_a_busy_one(
    shared: ThreadPoolExecutor, registry: CollectorRegistry
) -> None:
    """On a shared backend an idle loop keeps its thread no longer than a busy one does."""
    pool = share(shared, "idle", registry)
    workers: Any = pool._engine.workers
    assert workers._linger <= MAX_LEASE
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_a_stranger_gets_a_turn(shared: ThreadPoolExecutor, registry: CollectorRegistry) -> None:
    """A call that somebody else submits to the shared backend runs while the pool is still busy."""
    pool = share(shared, "busy", registry)
    came = threading.Event()
    before: list[bool] = []

    def busy() -> None:
        before.append(not came.is_set())
        if before[-1]:
            time.sleep(0.005)

    futures = [pool.submit(busy) for _ in range(5_000)]
    shared.submit(came.set).result(PATIENCE)
    for future in futures:
        future.result(PATIENCE)
    assert before == [True] * sum(before) + [False] * (5_000 - sum(before))
    assert 0 < sum(before) < 5_000
    assert check(pool.stats()).completed[Result.OK] == 5_000
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_order_is_kept_across_turns(shared: ThreadPoolExecutor, registry: CollectorRegistry) -> None:
    """Giving the thread back between two tasks changes nothing about their order, and runs none twice."""
    pool = share(shared, "ordered", registry)
    leased(pool)._now = itertools.count().__next__  # a turn ends at once
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(300)]
    for future in futures:
        future.result(PATIENCE)
    assert ran == list(range(300))
    assert check(pool.stats()).completed[Result.OK] == 300
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_backend_outlives_the_pool(shared: ThreadPoolExecutor, registry: CollectorRegistry) -> None:
    """With ``own_backend=False`` the backend is usable after a stop, also by another pool."""
    for pool in (share(shared, "guest", registry), share(shared, "other", registry)):
        assert pool.submit(lambda: 7).result(PATIENCE) == 7
        assert pool.stop(PATIENCE).drained
        assert shared.submit(lambda: 8).result(PATIENCE) == 8
        pool.close_metrics()


def test_own_backend_is_shut_down(make_pool: MakePool) -> None:
    """A pool that owns its backend shuts it down when it stops."""
    pool = make_pool(1)
    backend = pool._engine.backend
    pool.stop(PATIENCE)
    with pytest.raises(RuntimeError, match="after shutdown"):
        backend.submit(int)


def test_task_waiting_for_its_turn_is_lost_with_the_backend(registry: CollectorRegistry, logs: Logs) -> None:
    """Tasks whose loop still waits for its turn when the backend drops it raise WorkerLostError."""
    backend = ThreadPoolExecutor(1)
    pool = InstrumentedPool(
        backend, name="guest", queue_capacity=10, registry=registry, own_backend=False, logger=logs.logger
    )
    hold = BlockingTask()
    backend.submit(hold)
    hold.wait_started()
    futures = [pool.submit(int) for _ in range(3)]
    backend.shutdown(wait=False, cancel_futures=True)
    for future in futures:
        with pytest.raises(WorkerLostError):
            future.result(PATIENCE)
    hold.release()
    logs.wait_for("pool.backend_broken")
    assert pool.stop(PATIENCE).abandoned == ()
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.SHUTDOWN], stats.in_flight) == (3, 3, 0)
    backend.shutdown()
    pool.close_metrics()


# loops that go and come


def test_idle_loops_give_their_threads_back(make_pool: MakePool) -> None:
    """Loops that idle for too long end, and new ones are started when tasks come again."""
    pool = make_pool(3, queue_capacity=6)
    departures = Departures(pool)
    for _ in range(3):
        meeting = threading.Barrier(3)
        futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(3)]
        assert sorted(future.result(PATIENCE) for future in futures) == [0, 1, 2]
        departures.wait(3)
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.in_flight) == (9, 0)
    assert pool.stop(PATIENCE).drained


def test_loops_that_expire_at_the_moment_a_task_comes(make_pool: MakePool, switching: None) -> None:
    """However often a loop expires just as a task comes, the task runs."""
    pool = make_pool(2, queue_capacity=4)
    Departures(pool, linger=0.0)
    for number in range(1_000):
        assert pool.submit(abs, number).result(PATIENCE) == number
    stats = check(pool.stats())
    assert stats.completed[Result.OK] == 1_000


def test_loops_expire_while_paused(make_pool: MakePool) -> None:
    """A pause that outlasts the loops does not strand what was queued."""
    pool = make_pool(2, queue_capacity=4)
    departures = Departures(pool)
    pool.submit(int).result(PATIENCE)
    pool.pause()
    departures.wait()
    futures = [pool.submit(lambda: 7) for _ in range(4)]
    pool.resume()
    assert [future.result(PATIENCE) for future in futures] == [7] * 4


def test_pool_holds_no_thread_when_idle_backend_is_reused(shared: ThreadPoolExecutor) -> None:
    """An idle pool on a shared backend lets go of the thread, so that others may have it."""
    pool = InstrumentedPool(shared, name="guest", own_backend=False, registry=CollectorRegistry())
    departures = Departures(pool)
    pool.submit(int).result(PATIENCE)
    assert shared.submit(lambda: 8).result(PATIENCE) == 8
    departures.wait()
    assert pool.submit(lambda: 9).result(PATIENCE) == 9
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_a_trickle_of_tasks_gives_others_a_turn(shared: ThreadPoolExecutor) -> None:
    """Tasks that come more often than a loop idles do not keep a shared thread from others for ever."""
    pool = share(shared, "guest", CollectorRegistry())  # whose queue the trickle does not fill
    crew, over = ThreadRunner(), threading.Event()

    def trickle() -> None:
        while not over.wait(0.01):
            pool.submit(int)

    pool.submit(int).result(PATIENCE)
    trickling = crew.start(trickle)
    strangers = [shared.submit(abs, number) for number in range(3)]
    assert [stranger.result(PATIENCE) for stranger in strangers] == [0, 1, 2]
    over.set()
    trickling.result(PATIENCE)
    crew.join()
    pool.stop(PATIENCE)
    pool.close_metrics()


def test_stop_while_a_worker_waits_for_its_turn(shared: ThreadPoolExecutor, logs: Logs) -> None:
    """A task whose worker stands behind others in a shared backend is dropped by a stop, and never runs."""
    pool = InstrumentedPool(
        shared,
        name="guest",
        queue_capacity=9,
        own_backend=False,
        registry=CollectorRegistry(),
        logger=logs.logger,
    )
    leased(pool)._now = itertools.count().__next__  # a turn is over with the task it began with
    hold, first = BlockingTask(), BlockingTask()
    ran: list[int] = []
    occupy(pool, first, 1)
    behind = [pool.submit(ran.append, 1), pool.submit(ran.append, 2)]
    blocker = shared.submit(hold)
    first.release()
    hold.wait_started()  # in the thread that the pool's loop gave way with
    report = pool.stop(0.05)
    assert (report.dropped, report.abandoned) == (2, ())
    assert all(future.cancelled() for future in behind)
    hold.release()
    blocker.result(PATIENCE)
    assert shared.submit(int).result(PATIENCE) == 0
    assert not ran
    stats = check(pool.stats())
    assert (stats.dropped[Reason.SHUTDOWN], stats.in_flight) == (2, 0)
    pool.close_metrics()


# backends that are taken away or break


def test_backend_shut_down_behind_the_pools_back(make_pool: MakePool) -> None:
    """Submitting to a pool whose backend somebody has shut down raises PoolClosedError that says so."""
    pool = make_pool(2, queue_capacity=0)
    pool._engine.backend.shutdown()
    for way in (pool.submit, pool.submit_wait, pool.options(wait=0).submit):
        with pytest.raises(PoolClosedError, match="the wrapped executor takes no more work"):
            way(int)
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.CLOSED], stats.in_flight) == (0, 3, 0)
    assert pool.stop(PATIENCE).drained


def test_backend_shut_down_under_a_busy_pool(make_pool: MakePool, hold: BlockingTask) -> None:
    """The loops that run when the backend is shut down finish what is queued; once gone, none comes back."""
    pool = make_pool(2, queue_capacity=5)
    departures = Departures(pool)
    occupied = occupy(pool, hold, 1)
    pool._engine.backend.shutdown(wait=False)
    queued = [pool.submit(lambda: 7) for _ in range(3)]
    hold.release()
    assert [future.result(PATIENCE) for future in [*occupied, *queued]] == [None, 7, 7, 7]
    departures.wait()
    with pytest.raises(PoolClosedError, match="takes no more work"):
        pool.submit(int)
    assert check(pool.stats()).in_flight == 0
    assert pool.stop(PATIENCE).drained


def test_failing_initializer(registry: CollectorRegistry, logs: Logs) -> None:
    """A backend whose threads fail to initialise loses what was let in, refuses the rest, and is stopped."""

    def fail() -> None:
        raise OSError("no such device")

    backend = ThreadPoolExecutor(2, initializer=fail)
    pool = InstrumentedPool(
        backend,
        name="broken",
        queue_capacity=10,
        registry=registry,
        logger=logs.logger,
        drain_deadline=PATIENCE,
    )
    refused: list[BaseException] = []
    accepted: list[Future[Any]] = []
    for _ in range(10):
        try:
            accepted.append(pool.submit(int))
        except RuntimeError as error:
            refused.append(error)
    lost = [future.exception(PATIENCE) for future in accepted]
    assert len(refused) + len(lost) == 10
    assert all(isinstance(error, WorkerLostError) and not error.began for error in lost)
    logs.wait_for("pool.backend_broken")
    with pytest.raises(PoolBrokenError) as caught:
        pool.submit(int)
    assert all(isinstance(error, PoolBrokenError | WorkerLostError) for error in [*refused, caught.value])
    assert all(isinstance(error, BrokenExecutor) for error in [*refused, *lost, caught.value])
    logs.wait_for("pool.stopped")
    assert pool.stats().state == "stopped"
    stats = check(pool.stats())
    assert stats.submitted == stats.dropped[Reason.SHUTDOWN] == len(accepted)
    assert stats.dropped[Reason.CLOSED] == 11 - len(accepted)
    assert pool.stop(PATIENCE).abandoned == ()
    pool.close_metrics()


class Breaking:
    """A full pool of two workers, of which the second breaks the backend, as it is coming up."""

    def __init__(self, registry: CollectorRegistry, hold: BlockingTask) -> None:
        self._hold = hold
        self._come = threading.Event()
        self._threads = itertools.count()
        backend = ThreadPoolExecutor(2, initializer=self._initialize)
        self.pool = InstrumentedPool(backend, name="breaking", queue_capacity=0, registry=registry)
        occupy(self.pool, hold, 1)
        self._lost = self.pool.submit(int)
        self.line = WatchedWaiters(self.pool)

    def _initialize(self) -> None:
        if next(self._threads):
            assert self._come.wait(PATIENCE)
            raise OSError("no such device")

    def breaks(self) -> None:
        """Break the backend once a submitter stands in line."""
        self.line.wait()
        self._come.set()

    def check(self, error: BaseException | None) -> None:
        """Assert that a submitter got this error for what broke the backend, and end the pool."""
        assert type(error) is PoolBrokenError
        assert "initializer failed" in str(error)
        assert "stop()" not in str(error)
        assert isinstance(self._lost.exception(PATIENCE), WorkerLostError)
        self._hold.release()
        assert self.pool.stop(PATIENCE).abandoned == ()
        stats = check(self.pool.stats())
        assert (stats.dropped[Reason.CLOSED], stats.dropped[Reason.SHUTDOWN]) == (1, 1)
        self.pool.close_metrics()


def test_blocked_submitter_hears_that_the_backend_broke(
    registry: CollectorRegistry, hold: BlockingTask
) -> None:
    """A thread that waits for a slot when the backend breaks gets the error that names the cause."""
    breaking, crew = Breaking(registry, hold), ThreadRunner()
    blocked = crew.start(lambda: breaking.pool.submit_wait(int))
    breaking.breaks()
    breaking.check(blocked.exception(PATIENCE))
    crew.join()


async def test_suspended_submitter_hears_that_the_backend_broke(
    registry: CollectorRegistry, hold: BlockingTask
) -> None:
    """So does a coroutine that waits for a slot."""
    breaking = await asyncio.to_thread(Breaking, registry, hold)
    suspended = asyncio.ensure_future(breaking.pool.submit_async(int))
    await asyncio.to_thread(breaking.breaks)
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([suspended])
    await asyncio.to_thread(breaking.check, suspended.exception())


class NoThreads:
    """While entered, no backend can start a thread; the stdlib enqueues the call and then raises."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __enter__(self) -> None:
        start: Callable[[threading.Thread], None] = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("ThreadPoolExecutor"):
                raise RuntimeError("can't start new thread")
            start(thread)

        self._patch.setattr(threading.Thread, "start", refuse)

    def __exit__(self, *exc_info: object) -> None:
        self._patch.undo()


def test_system_out_of_threads(
    make_pool: MakePool, hold: BlockingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread to be had of two, the pool goes on with that one and keeps its bounds."""
    pool = make_pool(2, queue_capacity=4)
    occupied = occupy(pool, hold, 1)
    departures = Departures(pool)
    with NoThreads(monkeypatch):
        queued = [pool.submit(lambda: 7) for _ in range(3)]
        stats = check(pool.stats())
        assert (stats.running, stats.queued) == (1, 3)
    hold.release()
    assert [future.result(PATIENCE) for future in [*occupied, *queued]] == [None, 7, 7, 7]
    departures.wait()
    # The calls that the failed starts have enqueued come up now and find themselves struck out. How many
    # threads there are from here on is the stdlib's affair, which counts one idle thread more for each.
    assert [pool.submit_wait(abs, number).result(PATIENCE) for number in range(10)] == list(range(10))
    dispatcher = pool._engine.dispatcher
    with dispatcher.lock:
        assert 0 <= dispatcher.worker_set.starting <= len(dispatcher.worker_set.workers) <= 2
    assert check(pool.stats()).completed[Result.OK] == 14
    again = BlockingTask()
    assert len(fill(pool, again)) == 6
    again.release()


def test_system_without_any_thread(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no thread to be had at all a submit says so and leaves no trace; later the pool works."""
    pool = make_pool(1, queue_capacity=4)
    with NoThreads(monkeypatch), pytest.raises(PoolClosedError, match="can't start new thread"):
        pool.submit(int)
    stats = check(pool.stats())
    assert (stats.submitted, stats.in_flight, stats.dropped[Reason.CLOSED]) == (0, 0, 1)
    assert pool.submit(lambda: 7).result(PATIENCE) == 7
    again = BlockingTask()
    assert len(fill(pool, again)) == 5
    again.release()


def test_no_thread_for_a_turn(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that cannot give its thread back for want of a second one goes on; no task runs twice."""
    backend = ThreadPoolExecutor(2)
    pool = InstrumentedPool(
        backend, name="guest", max_workers=1, queue_capacity=100, registry=registry, own_backend=False
    )
    hold = BlockingTask()
    occupy(pool, hold, 1)
    ran: list[int] = []
    with NoThreads(monkeypatch):
        futures = [pool.submit(ran.append, number) for number in range(100)]
        # From far ahead, so that the turn of the loop that runs is over, and each after it with one task.
        leased(pool)._now = itertools.count(10**9).__next__
        hold.release()
        for future in futures:
            future.result(PATIENCE)
    leased(pool)._now = time.monotonic
    departures = Departures(pool)
    assert pool.submit(lambda: 7).result(PATIENCE) == 7
    departures.wait()
    backend.submit(int).result(PATIENCE)  # behind every ticket that a failed turn has left in the backend
    assert sorted(ran) == list(range(100))
    stats = check(pool.stats())
    assert (stats.running, stats.completed[Result.OK]) == (0, 102)
    assert pool.stop(PATIENCE).drained
    assert counts_add_up(pool.stats())
    backend.shutdown()
    pool.close_metrics()


def test_capacity_is_exact_with_loops_coming_up(registry: CollectorRegistry) -> None:
    """However slowly the backend's threads come up, workers + capacity tasks are let in, and no more."""
    backend = ThreadPoolExecutor(3)
    come = threading.Event()
    for _ in range(3):
        backend.submit(come.wait, PATIENCE)
    pool = InstrumentedPool(backend, name="late", queue_capacity=4, registry=registry)
    hold = BlockingTask()
    accepted = fill(pool, hold)
    assert len(accepted) == 7
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (3, 4)
    with pytest.raises(PoolFullError):
        pool.submit(int)
    come.set()
    hold.wait_started(3)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (3, 4)
    hold.release()
    for future in accepted:
        future.result(PATIENCE)
    pool.stop(PATIENCE)
    pool.close_metrics()


class OneAtATime:
    """An executor of a kind that is not known, with one worker."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self.executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True) -> None:
        self.executor.shutdown(wait)


def test_less_is_handed_over_ahead_than_before(registry: CollectorRegistry, hold: BlockingTask) -> None:
    """What was handed over ahead still counts as waiting when less is to be from now on."""
    backend = OneAtATime()
    pool = InstrumentedPool(
        backend, name="ahead", max_workers=1, queue_capacity=1, prefetch=1, registry=registry
    )
    futures = [pool.submit(hold), pool.submit(hold)]
    assert pool._engine.dispatcher.set_prefetch(lambda _workers: 0) == 0
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (1, 1)
    with pytest.raises(PoolFullError):
        pool.submit(int)
    hold.release()
    assert [future.result(PATIENCE) for future in futures] == [None, None]
    assert pool.submit(int).result(PATIENCE) == 0
    pool.stop(PATIENCE)
