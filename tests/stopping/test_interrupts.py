"""A signal handler that raises inside a stop leaves one that is under way, or one that is begun again."""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, cast

import pytest

from prodpool import InstrumentedPool, StopReport
from prodpool.shutdown.at_exit import exit_registry
from tests.faults import points
from tests.helpers.accounting import check
from tests.helpers.waiting import LEEWAY, PATIENCE, until
from tests.support import MakePool

WAYS: dict[str, Callable[[InstrumentedPool], object]] = {
    "stop": lambda pool: pool.stop(1.0),
    "shutdown": lambda pool: pool.shutdown(wait=False),
    "exit": lambda pool: pool._engine.at_exit.stop_at_exit(time.monotonic(), at_once=False),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[InstrumentedPool], object]:
    """Return a way to stop a pool."""
    return WAYS[request.param]


@pytest.fixture(autouse=True, scope="module")
def given_back() -> Iterator[None]:
    """Leave no events on for the tests that come after these."""
    yield
    points.give_back()


@pytest.fixture
def no_thread_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have the system refuse a stop its thread until the event is set."""
    granted, start = threading.Event(), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("prodpool-stop-") and "-log-" not in thread.name and not granted.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    yield granted
    granted.set()


def begun(make_pool: MakePool) -> tuple[InstrumentedPool, list[Future[object]]]:
    """Return a pool with a task that runs for a moment and one that waits."""
    pool = make_pool(1)
    running = threading.Event()
    go = threading.Timer(0.005, running.set)
    go.daemon = True
    futures: list[Future[object]] = [pool.submit(running.wait, PATIENCE), pool.submit(int)]
    go.start()
    return pool, futures


def ends(pool: InstrumentedPool, futures: list[Future[object]], where: object = None) -> StopReport:
    """Stop the pool again, assert that it has ended in every respect, and return the report."""
    began = time.monotonic()
    report = pool.stop(PATIENCE)
    assert time.monotonic() - began < LEEWAY, where
    assert pool.stats().state == "stopped", where
    assert all(future.done() for future in futures), where
    assert check(pool.stats()).in_flight == 0
    until(lambda: pool._engine not in exit_registry._alive)
    return report


def interrupted(point: int, call: Callable[[], object]) -> str | None:
    """Make ``call`` with an interrupt at ``point``; return where that was, None if there are fewer."""
    injector = points.Injector(point)
    gc.disable()  # an error in a finalizer reaches nobody
    try:
        with contextlib.suppress(*injector.errors), injector:
            call()
    finally:
        gc.enable()
    return injector.where


def interrupt_at_each(
    make_pool: MakePool, way: Callable[[InstrumentedPool], object], *, first: int, step: int
) -> None:
    point = first
    while True:
        pool, futures = begun(make_pool)
        where = interrupted(point, partial(way, pool))
        ends(pool, futures, where)
        if where is None:
            return
        point += step


def test_interrupted_at_some_points(make_pool: MakePool, way: Callable[[InstrumentedPool], object]) -> None:
    """The next stop ends in time with the pool stopped, wherever the first was interrupted."""
    interrupt_at_each(make_pool, way, first=1 + time.monotonic_ns() % 9, step=9)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_interrupted_at_every_point(make_pool: MakePool, way: Callable[[InstrumentedPool], object]) -> None:
    """So it does for every single point."""
    interrupt_at_each(make_pool, way, first=1, step=1)


@pytest.mark.parametrize("point", [pytest.param(3 * n + 1, id=str(3 * n + 1)) for n in range(40)])
def test_interrupted_without_a_thread(
    make_pool: MakePool, no_thread_for_a_stop: threading.Event, point: int
) -> None:
    """A stop in the caller's own thread that is interrupted is done by the next call."""
    pool, futures = begun(make_pool)
    ends(pool, futures, interrupted(point, lambda: pool.stop(1.0)))
    no_thread_for_a_stop.set()


def test_interrupted_and_not_called_again(make_pool: MakePool) -> None:
    """A stop that was interrupted before anybody did it is begun by the watchdog."""
    pool, futures = begun(make_pool)
    stopper = pool._engine.stopper
    for point in range(1, 200):
        interrupted(point, lambda: stopper.stop(PATIENCE, wait=False))
        if stopper._began < math.inf:
            break
    assert not stopper._claim, "the test is to interrupt before the thread is started"
    until(lambda: pool.stats().state == "stopped")
    assert all(future.done() for future in futures)


def let_come_up() -> None:
    """Let the threads come up that a signal has kept from it.

    One that comes while ``Thread.start`` waits may leave the lock of that thread's event taken for ever, in
    code of the stdlib's. Another thread stops the pool then, and this one hangs before its first line.
    """
    for thread in threading.enumerate():
        started: Any = thread._started  # type: ignore[attr-defined]
        if thread.ident is not None and not started.is_set():
            started._cond.acquire(timeout=1.0)
            started._cond.release()  # by whomever it was taken
            assert started.wait(PATIENCE)


# One that comes while a dead thread is taken from the standard library's set of threads reaches nobody.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_real_signals(make_pool: MakePool) -> None:
    """Of 200 pools whose stop a real signal interrupts at a random moment, each one stops."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(200):
            pool, futures = begun(make_pool)
            with contextlib.suppress(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, (1 + time.monotonic_ns() % 400) * 1e-6)
                pool.stop(1.0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            ends(pool, futures)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        let_come_up()


def test_interrupted_twice_at_exit(make_pool: MakePool) -> None:
    """A second Ctrl-C at exit cannot keep the tasks from being settled."""
    pool = make_pool(1)
    hang, wanted = threading.Event(), threading.Event()
    hung, queued = pool.submit(hang.wait, PATIENCE), pool.submit(int)
    until(hung.running)
    stopper = pool._engine.stopper
    close, calls = stopper._dispatcher.start_draining, []

    def interrupted() -> int:
        calls.append(1)
        if len(calls) <= 3:
            raise KeyboardInterrupt
        return close()

    stopper._dispatcher.start_draining = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        pool._engine.at_exit.stop_at_exit(time.monotonic(), at_once=False)
    assert pool.stats().state == "stopped"
    assert (hung.done(), queued.cancelled(), wanted.is_set()) == (True, True, False)
    hang.set()


def test_waits_without_a_thread(make_pool: MakePool, no_thread_for_a_stop: threading.Event) -> None:
    """Whoever waits for a stop that can have no thread does it itself."""
    pool, futures = begun(make_pool)
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed) == (True, 2)
    ends(pool, futures)
    assert not no_thread_for_a_stop.is_set()


def test_does_not_wait_without_a_thread(make_pool: MakePool, no_thread_for_a_stop: threading.Event) -> None:
    """``shutdown(wait=False)`` then refuses tasks at once; the stop is done once there is a thread."""
    pool = make_pool(1)
    go = threading.Event()
    task = pool.submit(go.wait, PATIENCE)
    pool.shutdown(wait=False)
    assert pool.stats().state == "draining"
    go.set()
    assert task.result(PATIENCE) is True
    no_thread_for_a_stop.set()
    until(lambda: pool.stats().state == "stopped")


def test_dropped_pool_without_a_thread(make_pool: MakePool, no_thread_for_a_stop: threading.Event) -> None:
    """A dropped pool that can have no thread for its stop is not drained by the watchdog."""
    other = make_pool(1)
    go = threading.Event()
    dropped = make_pool(1)
    task = dropped.submit(go.wait, PATIENCE)
    engine = dropped._engine
    engine.on_pool_collected()
    until(lambda: engine.dispatcher.state.value == "draining")
    expired = other.submit(go.wait, PATIENCE), other.options(deadline=0.05).submit(int)
    assert type(expired[1].exception(PATIENCE)).__name__ == "TaskExpiredError"
    assert not go.is_set()
    go.set()
    no_thread_for_a_stop.set()
    assert task.result(PATIENCE) is True
    until(lambda: engine.dispatcher.state.value == "stopped")


def test_while_a_worker_comes_up(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that the application is only just starting is not taken for a worker that is coming up."""
    pool = make_pool(1)
    engine = pool._engine
    unborn = threading.Thread(target=int)
    everyone = threading.enumerate
    monkeypatch.setattr(threading, "enumerate", lambda: [*everyone(), unborn])
    begin, workers = threading.Event(), cast("Any", type(engine.workers))
    come_up = workers._begin

    def come_up_late(*args: Any) -> None:
        assert begin.wait(PATIENCE)
        come_up(*args)

    monkeypatch.setattr(workers, "_begin", come_up_late)
    future = pool.submit(int)
    report = pool.stop(0.05)
    assert (report.dropped, future.cancelled()) == (1, True)
    until(lambda: engine not in exit_registry._alive)
    begin.set()
    until(lambda: not engine.dispatcher.worker_set.workers)


def test_backend_that_fails_to_shut_down(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend raises when it is shut down is counted, and the pool is let go of all the same."""
    pool = make_pool(1)
    engine = pool._engine
    backend = engine.backend
    shutdown = backend.shutdown

    def fail(wait: bool = True) -> None:
        shutdown(wait=wait)
        raise OSError("no")

    monkeypatch.setattr(backend, "shutdown", fail)
    assert pool.stop(PATIENCE).drained
    until(lambda: engine not in exit_registry._alive)
    assert engine.telemetry_errors.counts()["internal"] == 1
