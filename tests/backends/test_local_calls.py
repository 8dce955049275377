"""Executors of unknown kind that run their calls in threads of this process, or carry them elsewhere."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from opentelemetry import trace
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolFullError, current_task
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE, until
from tests.telemetry.tracer import Spans, attributes_of

request_id: ContextVar[str] = ContextVar("request_id", default="nothing")


class OwnSubmit(ThreadPoolExecutor):
    """Threads with a ``submit`` of their own, as an application may have it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


class Pickling(ThreadPoolExecutor):
    """Carries its calls as bytes, as an executor does whose workers are elsewhere."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_call, pickle.dumps((fn, args, kwargs)))


def _call(data: bytes) -> Any:
    fn, args, kwargs = pickle.loads(data)  # noqa: S301  # our own
    return fn(*args, **kwargs)


def seen() -> str:
    return request_id.get()


@pytest.fixture(params=[OwnSubmit, Pickling])
def pool(request: pytest.FixtureRequest, registry: CollectorRegistry) -> Iterator[InstrumentedPool]:
    with InstrumentedPool(request.param(2), name="test", registry=registry) as pool:
        yield pool


local = pytest.mark.parametrize("pool", [OwnSubmit], indirect=True)


def test_its_size_is_known(pool: InstrumentedPool) -> None:
    """It need not be given, since a thread pool says it."""
    assert pool.stats().workers == 2


def test_the_context_of_submit(pool: InstrumentedPool) -> None:
    """A task in a thread of this process sees it; one that is carried away sees what travels."""
    carried = isinstance(pool._engine.backend, Pickling)
    token = request_id.set("r-1")
    future = pool.submit(seen)
    request_id.reset(token)
    assert future.result(PATIENCE) == ("nothing" if carried else "r-1")


@local
def test_a_task_knows_itself(pool: InstrumentedPool) -> None:
    """It has its name and deadline, hears of a cancel, and nothing of it stays behind in its thread."""
    told = threading.Event()

    def listens() -> tuple[str, bool]:
        task = current_task()
        assert task is not None
        told.set()
        assert task.cancelled.wait(PATIENCE)
        return task.name, task.remaining is not None

    future = pool.options(task="listen", deadline=PATIENCE).submit(listens)
    assert told.wait(PATIENCE)
    assert not future.cancel()
    assert future.result(PATIENCE) == ("listen", True)
    backend: Any = pool._engine.backend
    assert ThreadPoolExecutor.submit(backend, current_task).result(PATIENCE) is None


@local
def test_where_a_task_is(pool: InstrumentedPool) -> None:
    """Its stack is that of its thread."""
    blocking = BlockingTask()
    occupy(pool, blocking, 1)
    text = pool.dump()
    blocking.release()
    assert "in thread" in text
    assert "in __call__" in text
    assert "local_call.py" not in text


@local
def test_a_task_that_submits_to_its_pool(pool: InstrumentedPool) -> None:
    """What it waits for runs inside it; where it would wait for a slot it is refused, and not for ever."""

    def nested() -> int:
        return pool.submit(abs, -7).result(PATIENCE)

    assert [future.result(PATIENCE) for future in [pool.submit(nested) for _ in range(2)]] == [7, 7]
    blocking = BlockingTask()

    def submits() -> None:
        pool.submit_wait(abs, -7)

    inside = pool.submit(_after(blocking, submits))
    blocking.wait_started()
    held = BlockingTask()
    futures = [pool.submit(held) for _ in range(5)]
    until(lambda: pool.stats().queued == 4)
    blocking.release()
    with pytest.raises(PoolFullError, match="A task of this pool would wait here"):
        inside.result(PATIENCE)
    held.release()
    assert [future.result(PATIENCE) for future in futures] == [None] * 5


def _after(blocking: BlockingTask, fn: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        blocking()
        return fn()

    return call


@local
def test_its_span_is_current(registry: CollectorRegistry, pool: InstrumentedPool) -> None:
    """What a task notes on the current span is on the task's own."""
    spans = Spans()
    with InstrumentedPool(
        OwnSubmit(1), name="traced", registry=registry, tracer_provider=spans.provider
    ) as traced:
        traced.options(task="note").submit(
            lambda: trace.get_current_span().set_attribute("note", "here")
        ).result(PATIENCE)
    assert attributes_of(spans.named("workerpool.task note"))["note"] == "here"


class GivesUp(ThreadPoolExecutor):
    """Gives a call up when the test says so, and leaves it running."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.given_up: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        told: Future[Any] = Future()
        self.given_up.append(told)
        super().submit(fn, *args, **kwargs).add_done_callback(lambda done: _pass_on(done, told))
        return told


def _pass_on(done: Future[Any], told: Future[Any]) -> None:
    if not told.done():
        told.set_result(done.result())


def test_a_call_that_is_given_up(registry: CollectorRegistry) -> None:
    """A task that goes on when its future has failed is itself still, and not the worker's next task."""
    began, look = threading.Event(), threading.Event()
    names: list[str] = []

    def goes_on() -> None:
        began.set()
        assert look.wait(PATIENCE)
        task = current_task()
        assert task is not None
        names.append(task.name)
        assert not task.cancelled.is_set()

    backend = GivesUp(2)
    with InstrumentedPool(backend, name="test", registry=registry, max_workers=1) as pool:
        first = pool.options(task="first").submit(goes_on)
        assert began.wait(PATIENCE)
        backend.given_up[0].set_exception(TimeoutError("took too long"))
        with pytest.raises(TimeoutError):
            first.result(PATIENCE)
        blocking = BlockingTask()
        second = pool.options(task="second").submit(blocking)
        blocking.wait_started()
        second.cancel()
        assert "in thread" in pool.dump()
        look.set()
        until(lambda: names)
        assert "in __call__" in pool.dump(), "the stack of the second task is still known"
        blocking.release()
        second.result(PATIENCE)
    assert names == ["first"]


class Breaks(ThreadPoolExecutor):
    """Breaks under its first call, which goes on."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        super().submit(fn, *args, **kwargs)
        assert BEGAN.wait(PATIENCE)
        broken: Future[Any] = Future()
        broken.set_exception(BrokenExecutor("its threads are lost"))
        return broken


BEGAN, GO_ON = threading.Event(), threading.Event()


def test_a_task_that_runs_again_beside_itself(registry: CollectorRegistry) -> None:
    """A task that may be repeated can begin again although the run that was lost is still in its context."""
    made: list[ThreadPoolExecutor] = []

    def build(workers: int) -> ThreadPoolExecutor:
        made.append((OwnSubmit if made else Breaks)(workers))
        return made[-1]

    def runs() -> int:
        task = current_task()
        assert task is not None
        if task.attempt == 1:
            BEGAN.set()
            assert GO_ON.wait(PATIENCE)
        return task.attempt

    with InstrumentedPool(build, name="test", registry=registry, max_workers=1) as pool:
        future = pool.options(idempotent=True).submit(runs)
        assert future.result(PATIENCE) == 2
        GO_ON.set()


def test_interpreters_are_not_leased(registry: CollectorRegistry) -> None:
    """A loop of the pool's cannot run in another interpreter: 3.14's executor gets its calls one by one."""
    # Stands in for the class, which older Pythons have not; it is known by its name.
    interpreters = type(
        "InterpreterPoolExecutor", (Pickling,), {"__module__": "concurrent.futures.interpreter"}
    )
    with InstrumentedPool(interpreters(2), name="test", registry=registry) as pool:
        assert not pool._engine.abilities.leased
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
