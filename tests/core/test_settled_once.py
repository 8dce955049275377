"""Whoever waits for a future is told once, and what a call was given is kept no longer than it has to be."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from typing import Any

import pytest

from prodpool import BreakerPolicy, InstrumentedPool, PoolFullError
from prodpool.concurrency.background_thread import background_thread
from prodpool.task.future import FINISHED, PoolFuture
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


class Given:
    """An argument."""


class Submits:
    """A backend of a kind that is not known: it is handed one task at a time."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(2)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True) -> None:
        self._executor.shutdown(wait)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_wait_right_after_cancel(make_pool: MakePool, hold: BlockingTask) -> None:
    """`wait` counts those that were cancelled just before, and waited for earlier, once and not twice."""
    pool = make_pool(1, queue_capacity=5)
    running = occupy(pool, hold, 1)
    queued = [pool.submit(int) for _ in range(3)]
    wait(queued, timeout=0.0)
    # The watchdog, which tells what the main thread has cancelled, is busy just now.
    background_thread().call_soon(lambda: time.sleep(0.05))
    for each in queued:
        each.cancel()
    began = time.monotonic()
    done, not_done = wait([*queued, *running], timeout=0.2)
    assert (done, not_done) == (set(queued), set(running))
    assert time.monotonic() - began > 0.15


def test_as_completed_right_after_cancel(make_pool: MakePool, hold: BlockingTask) -> None:
    """`as_completed` yields each of those once, however long its reader takes."""
    pool = make_pool(1, queue_capacity=5)
    running = occupy(pool, hold, 1)
    queued = [pool.submit(int) for _ in range(3)]
    wait(queued, timeout=0.0)
    # The watchdog, which tells what the main thread has cancelled, is busy just now.
    background_thread().call_soon(lambda: time.sleep(0.05))
    for each in queued:
        each.cancel()
    seen: list[Future[Any]] = []
    for ended in as_completed([*queued, *running], timeout=PATIENCE):
        seen.append(ended)
        time.sleep(0.06)
        if len(seen) == len(queued):
            hold.release()
    assert set(seen) == {*queued, *running}
    assert len(seen) == len(queued) + len(running)


def _tell_from_two_threads(future: PoolFuture[int]) -> None:
    calls: list[int] = []
    for number in range(200):
        future.add_done_callback(_noting(calls, number))
    waiting = [threading.Lock() for _ in range(20)]
    for lock in waiting:
        lock.acquire()
    future._waiter_locks = list(waiting)
    future.set_outcome(FINISHED, 1, None)
    together = threading.Barrier(2)

    def tell() -> None:
        together.wait()
        future.announce()

    tellers = [threading.Thread(target=tell) for _ in range(2)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join()
    assert sorted(calls) == list(range(200))
    assert not any(lock.locked() for lock in waiting)


def _noting(calls: list[int], number: int) -> Callable[[Any], None]:
    return lambda _: calls.append(number)


def _rest(_: Given, seconds: float) -> None:
    time.sleep(seconds)


def test_two_threads_tell(make_pool: MakePool) -> None:
    """When the watchdog goes on with what a worker is about to do after all, no callback is called twice."""
    runner: Any = make_pool(1)._engine.runner
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            _tell_from_two_threads(PoolFuture(runner, None))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("refused_by", ["queue", "breaker"])
def test_what_a_refused_call_was_given(make_pool: MakePool, hold: BlockingTask, refused_by: str) -> None:
    """A refused call's arguments are freed at once, and not when the garbage collector comes by."""
    if refused_by == "queue":
        pool = make_pool(1, queue_capacity=0)
        occupy(pool, hold, 1)
    else:
        pool = make_pool(1, breaker=BreakerPolicy(consecutive_failures=1))
        pool.submit(int, "no number").exception(PATIENCE)
    given = Given()
    alive = weakref.ref(given)
    with pytest.raises(Exception, match="pool 'test'") as refused:
        pool.submit(print, given)
    assert isinstance(refused.value, PoolFullError) is (refused_by == "queue")
    del given, refused
    assert alive() is None


def test_what_the_first_task_of_a_turn_was_given(hold: BlockingTask, registry: Any) -> None:
    """A loop that had its turn on a shared backend does not keep its first task while it runs the next."""
    refs = []
    with ThreadPoolExecutor(1) as backend:
        options: dict[str, Any] = {"name": "shared", "registry": registry, "own_backend": False}
        pool = InstrumentedPool(backend, max_workers=1, queue_capacity=10, **options)
        for seconds in (0.03, 0.03, 0.0):
            given = Given()
            refs.append(weakref.ref(given))
            pool.submit(_rest, given, seconds)
            del given
        pool.submit(hold)
        hold.wait_started()
        ends = time.monotonic() + 0.5
        while any(ref() is not None for ref in refs) and time.monotonic() < ends:
            time.sleep(0.01)
        alive = [ref() for ref in refs]
        hold.release()
        pool.stop(PATIENCE)
    assert alive == [None] * 3


def test_the_probe_of_an_interrupted_settlement(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt between the count and the breaker does not keep a half-open permit for `hung_after`."""
    policy = BreakerPolicy(consecutive_failures=1, open_for=0.05)
    pool = make_pool(1, queue_capacity=0, overload="caller_runs", breaker=policy)
    pool.submit(int, "no number").exception(PATIENCE)
    time.sleep(0.1)
    pool.pause()
    runner: Any = pool._engine.runner
    count = runner.settlement._count

    def interrupted(*args: Any) -> None:
        count(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner.settlement, "_count", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(int)
    pool.resume()
    assert pool.submit(int).result(PATIENCE) == 0
    assert pool.stats().breaker == "closed"


def test_submitted_with_hardly_any_stack_left(registry: Any) -> None:
    """A hand-over that would run out of stack is made by another thread; no task is left behind for it."""
    pool = InstrumentedPool(Submits(), name="deep", max_workers=2, queue_capacity=500, registry=registry)
    futures: list[Future[int]] = []

    def dive(frames: int) -> None:
        if frames:
            dive(frames - 1)
        else:
            futures.append(pool.submit(int))

    def work() -> None:
        pool.submit(int).result(PATIENCE)
        for frames in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
            try:
                dive(frames)
            except RecursionError:
                continue
            futures[-1].result(PATIENCE)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(futures) > 50
    assert all(future.done() for future in futures)
    assert pool.stop(PATIENCE).drained
    check(pool.stats())


def test_what_an_interrupted_resume_left_is_not_pickled_by_the_watchdog(registry: Any) -> None:
    """The watchdog has the courier hand over what it repairs: the application's pickling may hang."""
    pool = InstrumentedPool(Submits(), name="left", max_workers=1, queue_capacity=5, registry=registry)
    try:
        pool.submit(int).result(PATIENCE)
        workers: Any = pool._engine.workers
        where: list[str] = []
        hand_over = workers._send_assigned

        def noted() -> None:
            where.append(threading.current_thread().name)
            hand_over()

        workers._send_assigned = noted
        pool.pause()
        future = pool.submit(int)
        pool._engine.dispatcher.paused = False
        assert future.result(PATIENCE) == 0
        assert set(where) == {"prodpool-handoff-left"}
    finally:
        pool.stop(PATIENCE)
