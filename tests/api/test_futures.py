"""Promise 3: what `submit` returns behaves as a stdlib future does, and better where that one hangs."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError, as_completed, wait
from dataclasses import dataclass
from typing import Any

import pytest

from prodpool import InstrumentedPool, PoolFuture, Reason, Result
from tests.helpers.accounting import counts_add_up
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool


def boom() -> None:
    raise TaskError("boom")


def queued_behind(gate: BlockingTask, pool: InstrumentedPool) -> PoolFuture[int]:
    """Occupy the pool's only worker and return the future of a task that waits behind it."""
    pool.submit(gate)
    gate.wait_started()
    return pool.submit(len, "queued")


def test_life_of_a_future(make_pool: MakePool, gate: BlockingTask) -> None:
    """A future is queued, then running, then done with its result; exactly one of the three at a time."""
    pool = make_pool(1)
    first, second = pool.submit(gate, "one"), pool.submit(gate, "two")
    gate.wait_started()
    states = [(f.running(), f.done(), f.cancelled()) for f in (first, second)]
    assert states == [(True, False, False), (False, False, False)]
    gate.release()
    assert (first.result(PATIENCE), second.result(PATIENCE)) == ("one", "two")
    assert [(f.running(), f.done(), f.cancelled()) for f in (first, second)] == 2 * [(False, True, False)]
    assert (first.exception(), second.exception()) == (None, None)
    assert isinstance(first, Future)


def test_repr_names_pool_task_and_state(make_pool: MakePool, gate: BlockingTask) -> None:
    """The repr of a future says whose it is and how far it is, and never what it carries."""
    pool = make_pool(1, name="mail")
    running, failing, cancelled = pool.submit(gate, "secret"), pool.submit(boom), pool.submit(boom)
    gate.wait_started()
    assert repr(running) == "<PoolFuture of task 'BlockingTask' in pool 'mail': running>"
    assert repr(failing) == "<PoolFuture of task 'boom' in pool 'mail': queued>"
    cancelled.cancel()
    assert repr(cancelled) == "<PoolFuture in pool 'mail': cancelled>"
    gate.release()
    running.result(PATIENCE)
    failing.exception(PATIENCE)
    assert repr(running) == "<PoolFuture in pool 'mail': finished>"
    assert repr(failing) == "<PoolFuture in pool 'mail': finished raised TaskError>"


def test_failure(make_pool: MakePool) -> None:
    """A task's exception is returned by exception() and raised by result(), the very object, each time."""
    pool = make_pool(1)
    future = pool.submit(boom)
    error = future.exception(PATIENCE)
    assert isinstance(error, TaskError)
    for _ in range(2):
        with pytest.raises(TaskError) as caught:
            future.result()
        assert caught.value is error


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_a_bare_base_exception(make_pool: MakePool, kind: type[BaseException]) -> None:
    """A task that raises a bare BaseException delivers it, is a panic, and its worker lives on."""

    def leave() -> None:
        raise kind("leave")

    pool = make_pool(1)
    before = pool.submit(threading.get_ident).result(PATIENCE)
    assert type(pool.submit(leave).exception(PATIENCE)) is kind
    assert pool.submit(threading.get_ident).result(PATIENCE) == before
    assert pool.stats().completed[Result.PANIC] == 1


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that lets nobody set an attribute, as frozen dataclasses do."""

    code: int


class ProperError(Exception):
    """An exception whose attributes raise when a stack is rendered."""

    @property
    def __suppress_context__(self) -> bool:  # type: ignore[override]
        raise ValueError("no looking")


class UnprintableError(Exception):
    """An exception that cannot be turned into text."""

    def __str__(self) -> str:
        raise ValueError("no printing")

    __repr__ = __str__


@pytest.mark.parametrize(
    "error", [FrozenError(7), ProperError(), UnprintableError()], ids=lambda error: type(error).__name__
)
def test_an_awkward_exception_is_delivered(make_pool: MakePool, error: Exception) -> None:
    """Whatever an exception does to those who look at it, the caller gets it and the worker lives on."""

    def fail() -> None:
        raise error

    pool = make_pool(1)
    assert pool.submit(fail).exception(PATIENCE) is error
    assert pool.submit(len, "on").result(PATIENCE) == 2
    assert pool.stats().completed[Result.ERROR] == 1


class Unnameable:
    """A callable that answers every question about itself with an error."""

    def __call__(self) -> None:
        raise TaskError

    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


def test_a_callable_that_cannot_be_named(make_pool: MakePool) -> None:
    """A failing callable whose attributes raise still delivers its own exception."""
    pool = make_pool(1)
    assert isinstance(pool.submit(Unnameable()).exception(PATIENCE), TaskError)
    assert pool.submit(len, "on").result(PATIENCE) == 2


def test_stop_iteration_becomes_a_runtime_error(make_pool: MakePool) -> None:
    """A StopIteration, which no coroutine can be told of, arrives as RuntimeError with it as the cause."""
    error = make_pool(1).submit(next, iter(())).exception(PATIENCE)
    assert type(error) is RuntimeError
    assert isinstance(error.__cause__, StopIteration)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, 0.001])
@pytest.mark.parametrize("ask", [Future.result, Future.exception], ids=["result", "exception"])
def test_timeouts(make_pool: MakePool, gate: BlockingTask, ask: Callable[..., Any], timeout: float) -> None:
    """Asking with a timeout raises TimeoutError for a queued and a running task, and both go on."""
    pool = make_pool(1)
    running, queued = pool.submit(gate, "a"), pool.submit(gate, "b")
    gate.wait_started()
    for future in (running, queued):
        with pytest.raises(TimeoutError):
            ask(future, timeout)
    gate.release()
    assert (running.result(PATIENCE), queued.result(PATIENCE)) == ("a", "b")


def test_only_the_pool_settles(make_pool: MakePool, gate: BlockingTask) -> None:
    """Setting a result, an exception or the state from outside is refused and changes nothing."""
    future = make_pool(1).submit(gate, "own")
    with pytest.raises(InvalidStateError, match="by the pool alone"):
        future.set_result("other")
    with pytest.raises(InvalidStateError, match="by the pool alone"):
        future.set_exception(TaskError())
    with pytest.raises(InvalidStateError, match="by the pool alone"):
        future.set_running_or_notify_cancel()
    gate.release()
    assert future.result(PATIENCE) == "own"
    with pytest.raises(InvalidStateError):
        future.set_result("other")
    assert future.result() == "own"


def test_cancel_a_queued_task(make_pool: MakePool, gate: BlockingTask) -> None:
    """A cancelled queued task never runs, gives its slot back at once and is counted."""
    pool = make_pool(1, queue_capacity=1)
    future = queued_behind(gate, pool)
    assert future.cancel()
    assert future.cancel(), "a second cancel() says the same"
    assert (future.cancelled(), future.done(), future.running()) == (True, True, False)
    with pytest.raises(CancelledError):
        future.result()
    with pytest.raises(CancelledError):
        future.exception()
    stats = pool.stats()
    assert (stats.queued, stats.dropped[Reason.CANCELLED]) == (0, 1)
    assert pool.submit(len, "in its place").cancel()


def test_cancel_too_late(make_pool: MakePool, gate: BlockingTask) -> None:
    """Neither a running nor a finished task can be cancelled."""
    pool = make_pool(1)
    future = pool.submit(gate, "done")
    gate.wait_started()
    assert not future.cancel()
    gate.release()
    assert future.result(PATIENCE) == "done"
    assert not future.cancel()
    assert not future.cancelled()
    assert pool.stats().dropped[Reason.CANCELLED] == 0


def cancel(pool: InstrumentedPool, future: PoolFuture[int]) -> None:
    assert future.cancel()


def shut_down(pool: InstrumentedPool, future: PoolFuture[int]) -> None:
    pool.shutdown(wait=False, cancel_futures=True)


def stop_at_once(pool: InstrumentedPool, future: PoolFuture[int]) -> None:
    pool.stop(deadline=0)


@pytest.mark.parametrize("end", [cancel, shut_down, stop_at_once])
@pytest.mark.parametrize("watch_first", [False, True], ids=["asked after", "asked before"])
def test_waiting_for_a_cancelled_task_ends(
    make_pool: MakePool,
    gate: BlockingTask,
    end: Callable[[InstrumentedPool, PoolFuture[int]], None],
    watch_first: bool,
) -> None:
    """wait() and as_completed() return for a cancelled future, on which they hang with a stdlib one."""
    pool = make_pool(1)
    future = queued_behind(gate, pool)
    found: list[object] = []
    watcher = threading.Thread(target=lambda: found.extend(as_completed([future], PATIENCE)))
    if watch_first:
        assert not wait([future], timeout=0).done
        watcher.start()
    end(pool, future)
    assert wait([future], PATIENCE).done == {future}
    if not watch_first:
        watcher.start()
    watcher.join(PATIENCE)
    assert found == [future]
    assert future._state == "CANCELLED_AND_NOTIFIED"


def test_callbacks(make_pool: MakePool, gate: BlockingTask) -> None:
    """Callbacks get the settled future, in order; one added afterwards is called at once, there."""
    future = make_pool(1).submit(gate, "value")
    calls: list[tuple[str, object, int]] = []

    def note(word: str) -> Callable[[Future[Any]], None]:
        return lambda done: calls.append((word, done.result(0), threading.get_ident()))

    future.add_done_callback(note("first"))
    called = threading.Event()
    future.add_done_callback(note("second"))
    future.add_done_callback(lambda _: called.set())
    gate.release()
    assert called.wait(PATIENCE)
    future.add_done_callback(note("late"))
    assert [(word, value) for word, value, _ in calls] == [
        ("first", "value"),
        ("second", "value"),
        ("late", "value"),
    ]
    assert calls[0][2] != threading.get_ident()
    assert calls[2][2] == threading.get_ident()


def test_a_callback_of_a_cancelled_task(make_pool: MakePool, gate: BlockingTask) -> None:
    """Cancelling calls the callback once, in the cancelling thread, and cancelling again does not."""
    future = queued_behind(gate, make_pool(1))
    seen: list[tuple[bool, int]] = []
    future.add_done_callback(lambda done: seen.append((done.cancelled(), threading.get_ident())))
    future.cancel()
    future.cancel()
    assert seen == [(True, threading.get_ident())]


def test_a_callback_sees_the_task_counted(make_pool: MakePool, gate: BlockingTask) -> None:
    """Whoever is told of a result reads numbers that include the task already."""
    pool = make_pool(1)
    future = pool.submit(gate)
    seen: list[tuple[int, int]] = []
    called = threading.Event()

    def look(_: object) -> None:
        seen.append((pool.stats().completed[Result.OK], pool.stats().running))
        called.set()

    future.add_done_callback(look)
    gate.release()
    assert called.wait(PATIENCE)
    assert seen == [(1, 0)]


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("fails", [False, True], ids=["task ok", "task fails"])
def test_a_callback_that_raises(
    make_pool: MakePool, gate: BlockingTask, kind: type[BaseException], fails: bool
) -> None:
    """A raising callback is counted; the other callbacks, the result and the worker are untouched."""

    def task() -> int:
        gate()
        if fails:
            boom()
        return threading.get_ident()

    def bad(_: object) -> None:
        raise kind("bad callback")

    pool = make_pool(1)
    worker = pool.submit(threading.get_ident).result(PATIENCE)
    future = pool.submit(task)
    called = threading.Event()
    future.add_done_callback(bad)
    future.add_done_callback(lambda _: called.set())
    gate.release()
    assert called.wait(PATIENCE)
    assert isinstance(future.exception(), TaskError) if fails else future.result() == worker
    assert pool.submit(threading.get_ident).result(PATIENCE) == worker
    assert pool._engine.telemetry_errors.counts()["callback"] == 1


class HandlerError(BaseException):
    """What a signal handler of an application raises."""


@pytest.fixture
def raising(request: pytest.FixtureRequest) -> Iterator[Callable[[object], None]]:
    """Return a callback during which a signal comes, whose handler raises what the test asks for."""

    def handler(*_: object) -> None:
        raise request.param

    before = signal.signal(signal.SIGALRM, handler)
    yield lambda _: signal.raise_signal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("raising", [KeyboardInterrupt, SystemExit, HandlerError], indirect=True)
def test_a_signal_in_a_callback_of_the_main_thread(
    make_pool: MakePool, gate: BlockingTask, raising: Callable[[object], None]
) -> None:
    """What a signal handler raises there reaches the caller; the other callbacks are called, each once."""
    pool = make_pool(1)
    future, called = queued_behind(gate, pool), list[str]()
    future.add_done_callback(lambda _: called.append("before"))
    future.add_done_callback(raising)
    future.add_done_callback(lambda _: called.append("after"))
    with pytest.raises((KeyboardInterrupt, SystemExit, HandlerError)):
        future.cancel()
    assert called == ["before", "after"]
    for _ in range(3):
        pool._engine.watchdog.repair()  # which would make what was left out
    gate.release()
    assert pool.stop(PATIENCE).drained
    assert called == ["before", "after"]
    stats = pool.stats()
    assert (future.cancelled(), stats.dropped[Reason.CANCELLED], counts_add_up(stats)) == (True, 1, True)
    assert pool._engine.telemetry_errors.counts()["callback"] == 0


def test_an_interrupt_in_a_callback_of_a_worker(make_pool: MakePool, gate: BlockingTask, logs: Logs) -> None:
    """A KeyboardInterrupt that a callback raises in a worker is reported and reaches no one."""

    def bad(_: object) -> None:
        raise KeyboardInterrupt

    pool, called = make_pool(1), queue.SimpleQueue[str]()
    future = pool.submit(gate)
    future.add_done_callback(lambda _: called.put("before"))
    future.add_done_callback(bad)
    future.add_done_callback(lambda _: called.put("after"))
    gate.wait_started()
    gate.release()
    assert [called.get(timeout=PATIENCE) for _ in range(2)] == ["before", "after"]
    assert logs.wait_for("task.callback_error")["error"] == "KeyboardInterrupt"
    workers = set(pool._engine.dispatcher.worker_set.workers)
    assert pool.submit(int).result(PATIENCE) == 0
    assert set(pool._engine.dispatcher.worker_set.workers) == workers
    assert pool.stop(PATIENCE).drained
    assert called.empty()
    assert pool._engine.telemetry_errors.counts()["callback"] == 1


def test_a_late_callback_that_raises(make_pool: MakePool) -> None:
    """Called in the thread that adds it, an error of a callback is counted; that thread's exit gets out."""

    def bad(kind: type[BaseException]) -> Callable[[object], None]:
        def callback(_: object) -> None:
            raise kind("bad callback")

        return callback

    pool = make_pool(1)
    future = pool.submit(len, "")
    future.result(PATIENCE)
    future.add_done_callback(bad(ValueError))
    assert pool._engine.telemetry_errors.counts()["callback"] == 1
    for kind in (KeyboardInterrupt, SystemExit):
        with pytest.raises(kind):
            future.add_done_callback(bad(kind))
