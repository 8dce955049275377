"""Promise 4, for observers that do not raise but hang: no task, no stop and no other pool notices."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pybreaker
import pytest
import structlog
from opentelemetry.sdk.trace import Span
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from prometheus_client import CollectorRegistry

from prodpool import (
    InstrumentedPool,
    PoolBrokenError,
    PoolFullError,
    Result,
    TaskExpiredError,
    WorkerLostError,
)
from prodpool.concurrency.call_thread import MOST_THREADS
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.accounting import counts_add_up
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import LEEWAY, PATIENCE, until
from tests.support import Logs, MakePool
from tests.telemetry.scraping import value
from tests.telemetry.ticking import ticks
from tests.telemetry.tracer import Spans, attributes_of

# Seconds beyond its deadline that a stop waits for an observer.
WAITS = 0.5


class Stuck:
    """What an observer waits for. Tells when it has come to hang, and is let go in the end."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()

    def hang(self, *_: object) -> None:
        self.reached.set()
        self._go.wait()

    def wait_reached(self) -> None:
        assert self.reached.wait(PATIENCE), "nobody came to hang"

    def release(self) -> None:
        self._go.set()


@pytest.fixture
def stuck(make_pool: MakePool) -> Iterator[Stuck]:
    """Return what hangs until the end of the test, before its pools are stopped."""
    stuck = Stuck()
    yield stuck
    stuck.release()


class HangingExporter(SpanExporter):
    """Hangs in every export, as one does whose collector does not answer."""

    def __init__(self, stuck: Stuck) -> None:
        self._stuck = stuck

    def export(self, *_args: Any) -> SpanExportResult:
        self._stuck.hang()
        return SpanExportResult.SUCCESS


def hanging_provider(stuck: Stuck) -> Any:
    return Spans(ALWAYS_ON, SimpleSpanProcessor(HangingExporter(stuck))).provider


def hanging_logger(stuck: Stuck, *events: str) -> Any:
    """A log that hangs at lines of these events, or at every line."""

    def processor(_logger: object, _method: str, entry: Any) -> Any:
        if not events or entry["event"] in events:
            stuck.hang()
        raise structlog.DropEvent

    return structlog.wrap_logger(None, processors=[processor], wrapper_class=structlog.BoundLogger)


def boom() -> None:
    raise ValueError("went off")


@pytest.mark.parametrize("which", ["exporter", "log"])
def test_tasks_go_on(make_pool: MakePool, stuck: Stuck, which: str) -> None:
    """While an exporter or a log hangs every task has its result, and the stop is in time and exact."""
    options = (
        {"tracer_provider": hanging_provider(stuck)}
        if which == "exporter"
        else {"logger": hanging_logger(stuck, "task.error")}
    )
    pool = make_pool(2, queue_capacity=50, **options)
    failed = [pool.submit(boom) for _ in range(10)]
    stuck.wait_reached()
    assert [type(future.exception(PATIENCE)) for future in failed] == [ValueError] * 10
    assert [pool.submit(int).result(PATIENCE) for _ in range(20)] == [0] * 20
    began = time.monotonic()
    report = pool.stop(0.5)
    assert time.monotonic() - began < WAITS + LEEWAY
    assert (report.drained, report.abandoned) == (True, ())
    stats = pool.stats()
    assert (stats.completed[Result.ERROR], stats.completed[Result.OK], stats.running) == (10, 20, 0)
    assert counts_add_up(stats)


def test_a_hung_exporter_holds_up_no_log_line(make_pool: MakePool, stuck: Stuck, logs: Logs) -> None:
    """Each sink has a thread of its own: while the exporter hangs the log is complete to the last line."""
    pool = make_pool(1, tracer_provider=hanging_provider(stuck))
    pool.submit(boom).exception(PATIENCE)
    stuck.wait_reached()
    pool.stop()
    logs.wait_for("pool.stopped")
    assert logs.events == ["pool.created", "task.error", "pool.draining", "pool.stopped"]


def test_a_hung_log_holds_up_no_span(make_pool: MakePool, stuck: Stuck) -> None:
    """And the other way round."""
    spans = Spans()
    pool = make_pool(1, logger=hanging_logger(stuck), tracer_provider=spans.provider)
    pool.submit(int).result(PATIENCE)
    stuck.wait_reached()
    pool.options(task="fails").submit(boom).exception(PATIENCE)
    assert attributes_of(spans.named("workerpool.task fails"))["workerpool.result"] == "error"


@pytest.mark.parametrize("event", ["task.still_running", "pool.dropping"])
def test_the_watch_over_other_pools(make_pool: MakePool, stuck: Stuck, logs: Logs, event: str) -> None:
    """While one pool's log hangs in a line of the watchdog, another pool's tasks expire and are watched."""
    bad = make_pool(1, queue_capacity=0, hung_after=0.02, logger=hanging_logger(stuck, event))
    gate = BlockingTask()
    bad.submit(gate)
    gate.wait_started()
    with pytest.raises(PoolFullError):
        bad.submit(int)
    stuck.wait_reached()
    good = make_pool(1, name="good", hung_after=0.02)
    good.submit(gate)
    gate.wait_started()
    with pytest.raises(TaskExpiredError):
        good.options(deadline=0.01).submit(int).result(PATIENCE)
    logs.wait_for("task.still_running", count=2)
    gate.release()


def test_hung_sinks_of_one_pool(make_pool: MakePool, stuck: Stuck, logs: Logs) -> None:
    """A pool whose log and exporter hang delays neither those of another pool nor its stop."""
    bad = make_pool(1, logger=hanging_logger(stuck), tracer_provider=hanging_provider(stuck))
    bad.submit(int).result(PATIENCE)
    stuck.wait_reached()
    spans = Spans()
    good = make_pool(1, name="good", clock=ManualClock(), tracer_provider=spans.provider)
    good.options(task="traced").submit(boom).exception(PATIENCE)
    assert flush_telemetry(good, PATIENCE)
    assert not flush_telemetry(bad, 0.01)
    assert spans.names == ["workerpool.task traced"]
    assert logs.events == ["pool.created", "task.error"]


@pytest.mark.parametrize("sink", ["log", "trace"])
def test_overflow(
    make_pool: MakePool,
    registry: CollectorRegistry,
    stuck: Stuck,
    reports: list[str],
    sink: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a hung sink has no room for any more is counted as its error, and told once."""
    module = {"log": "log_events", "trace": "tracing"}[sink]
    monkeypatch.setattr(f"prodpool.telemetry.{module}._CAPACITY", 5)
    options: dict[str, Any] = (
        {"logger": hanging_logger(stuck)} if sink == "log" else {"tracer_provider": hanging_provider(stuck)}
    )
    pool = make_pool(1, **options)
    pool.submit(boom).exception(PATIENCE)
    stuck.wait_reached()
    for _ in range(20):
        pool.submit(boom).exception(PATIENCE)
    assert 10 <= value(registry, "workerpool_telemetry_errors_total", sink=sink) <= 20
    until(lambda: reports)
    stuck.release()
    pool.stop()
    (told,) = reports
    assert f"pool=test sink={sink}" in told
    assert "thrown away" in told


def test_trouble_that_nobody_can_be_told_of(make_pool: MakePool, stuck: Stuck) -> None:
    """Where the library's own logger hangs, reporting that another sink raises holds up no task."""

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "pool.telemetry_error" in record.getMessage():
                stuck.hang()

    def bad(*_: object) -> Any:
        raise ValueError("bad processor")

    logger, handler = logging.getLogger("prodpool"), Hanging()
    logger.addHandler(handler)
    try:
        pool = make_pool(1, logger=structlog.wrap_logger(None, processors=[bad]))
        pool.submit(int).result(PATIENCE)
        stuck.wait_reached()
        assert isinstance(pool.submit(boom).exception(PATIENCE), ValueError)
        began = time.monotonic()
        assert pool.stop(0.5).drained
        assert time.monotonic() - began < WAITS + LEEWAY
    finally:
        stuck.release()
        logger.removeHandler(handler)


def test_callbacks_of_expired_tasks_that_hang(make_pool: MakePool, stuck: Stuck) -> None:
    """Callbacks of expired tasks that hang keep no other expired task from calling its own."""
    pool = make_pool(1, queue_capacity=20, hung_after=0.02)
    gate = BlockingTask()
    pool.submit(gate)
    gate.wait_started()
    expiring = [pool.options(deadline=0.01).submit(int) for _ in range(MOST_THREADS)]
    called = threading.Event()
    for future in expiring[:-1]:
        future.add_done_callback(stuck.hang)
    expiring[-1].add_done_callback(lambda _: called.set())
    assert called.wait(PATIENCE)
    assert all(isinstance(future.exception(PATIENCE), TaskExpiredError) for future in expiring)
    gate.release()


class Blocking(ThreadPoolExecutor):
    """An executor of the application's own, whose ``submit`` waits for a place that never comes."""

    def __init__(self, stuck: Stuck) -> None:
        super().__init__(2)
        self._stuck = stuck
        self.blocks = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.blocks:
            self._stuck.hang()
        return super().submit(fn, *args, **kwargs)


def test_a_backend_that_takes_nothing(
    registry: CollectorRegistry, stuck: Stuck, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backend that hangs when the watchdog has a waiting task handed over does not hold it up."""
    backend, gate = Blocking(stuck), BlockingTask()
    pool = InstrumentedPool(backend, name="test", max_workers=2, registry=registry, logger=logs.logger)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()

    def refuse() -> bool:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(pool._engine.workers, "start", refuse)
        waiting = pool.submit(int)
    backend.blocks = True
    for _ in range(3):
        tick()
    stuck.wait_reached()
    tick()
    backend.blocks = False
    stuck.release()
    gate.release()
    assert waiting.result(PATIENCE) == 0
    assert pool.stop(PATIENCE).drained
    pool.close_metrics()


def test_a_breaker_that_is_in_use_at_the_end(make_pool: MakePool, stuck: Stuck, logs: Logs) -> None:
    """A circuit breaker in which the application hangs holds up neither the stop nor the watchdog."""
    circuit, gate = pybreaker.CircuitBreaker(), BlockingTask()
    pool = make_pool(1, breaker=circuit, hung_after=0.02)
    pool.submit(gate)
    gate.wait_started()
    user = threading.Thread(target=circuit.call, args=(stuck.hang,))
    user.start()
    stuck.wait_reached()
    assert pool.stop(0).abandoned == ("BlockingTask",)
    gate.release()  # and the watchdog is to let the circuit breaker go
    until(lambda: not pool._engine.dispatcher.worker_set.workers)
    other, second = make_pool(1, name="other", hung_after=0.02), BlockingTask()
    other.submit(second)
    logs.wait_for("task.still_running", count=6, where=lambda line: line["pool"] == "other")
    second.release()
    stuck.release()
    user.join(PATIENCE)
    until(lambda: circuit.listeners == ())


class HangingListener(pybreaker.CircuitBreakerListener):
    """Hangs in whatever it is told of an outcome, with the circuit breaker's lock held."""

    def __init__(self, stuck: Stuck) -> None:
        self._stuck = stuck

    def success(self, cb: Any) -> None:  # noqa: ARG002
        self._stuck.hang()

    def failure(self, cb: Any, exc: BaseException) -> None:  # noqa: ARG002
        self._stuck.hang()


@pytest.mark.parametrize(("fn", "result"), [(boom, Result.ERROR), (int, Result.OK)])
def test_a_breaker_listener_that_hangs(
    make_pool: MakePool, stuck: Stuck, fn: Callable[[], int | None], result: Result
) -> None:
    """A listener that hangs in the worker does not keep the result: two ticks later it is there, once."""
    circuit = pybreaker.CircuitBreaker(listeners=[HangingListener(stuck)])
    pool = make_pool(1, breaker=circuit)
    tick, called = ticks(pool), queue.SimpleQueue[Future[Any]]()
    future = pool.submit(fn)
    future.add_done_callback(called.put)
    stuck.wait_reached()
    for _ in range(2):
        tick()
    assert type(future.exception(PATIENCE)) is (ValueError if fn is boom else type(None))
    assert called.get(timeout=PATIENCE) is future

    def ended() -> tuple[int, int, int, bool]:
        stats = pool.stats()
        return sum(stats.completed.values()), stats.completed[result], stats.running, counts_add_up(stats)

    assert ended() == (1, 1, 0, True)
    stuck.release()
    assert pool.stop(PATIENCE).drained
    assert ended() == (1, 1, 0, True)
    assert called.empty()


# What refuses to be rendered


class MuteError(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class OddType(type):
    """A metaclass whose classes have no name to be read."""

    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise ValueError("no name")
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=OddType):
    """An exception whose class does not tell its name."""


@pytest.mark.parametrize("kind", [MuteError, NamelessError])
def test_an_exception_that_cannot_be_rendered(
    make_pool: MakePool, registry: CollectorRegistry, logs: Logs, kind: type[Exception]
) -> None:
    """Its task's span is ended with an error status, and its line is written: both say what can be said."""
    spans, error = Spans(), kind()

    def fail() -> None:
        raise error

    pool = make_pool(1, tracer_provider=spans.provider)
    assert pool.options(task="fails").submit(fail).exception(PATIENCE) is error
    span = spans.named("workerpool.task fails")
    assert not span.status.is_ok
    assert attributes_of(span)["workerpool.result"] == "error"
    assert [event.name for event in span.events] == ["workerpool.started", "exception"]
    assert "in fail" in str((span.events[1].attributes or {})["exception.stacktrace"])
    assert "in fail" in str(logs.wait_for("task.error")["stack"])
    assert flush_telemetry(pool)
    assert value(registry, "workerpool_telemetry_errors_total", sink="trace") == 0


def test_a_backend_that_breaks_with_it(registry: CollectorRegistry, logs: Logs) -> None:
    """A backend whose error has no text is logged as broken all the same, and submitters are told."""
    backend = ThreadPoolExecutor(1)
    pool = InstrumentedPool(backend, name="test", registry=registry, logger=logs.logger)
    pool._engine.closing.backend_broke(MuteError())
    assert "MuteError" in logs.wait_for("pool.backend_broken")["error"]
    with pytest.raises(PoolBrokenError, match="MuteError"):
        pool.submit(int)
    assert pool.stop(1.0).drained
    pool.close_metrics()


@pytest.mark.parametrize("method", ["set_attribute", "add_event", "set_status"])
def test_a_span_that_takes_nothing(
    make_pool: MakePool, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """A span that raises when it is told of the task's end is ended all the same, and that is counted."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)
    gate = BlockingTask()

    def fail() -> None:
        gate()
        raise ValueError("went off")

    future = pool.options(task="fails").submit(fail)
    gate.wait_started()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise ValueError("takes nothing")

    monkeypatch.setattr(Span, method, refuse)
    gate.release()
    future.exception(PATIENCE)
    spans.named("workerpool.task fails")
    assert flush_telemetry(pool)
    assert value(registry, "workerpool_telemetry_errors_total", sink="trace") == 1


def test_a_slow_exporter(make_pool: MakePool) -> None:
    """A stop with time left waits for an exporter that is slow and gets on: no span is lost by it."""

    class Slow(SpanExporter):
        def export(self, *_args: Any) -> SpanExportResult:
            time.sleep(0.02)
            return SpanExportResult.SUCCESS

    spans = Spans(ALWAYS_ON, SimpleSpanProcessor(Slow()))
    pool = make_pool(4, queue_capacity=60, clock=ManualClock(), tracer_provider=spans.provider)
    for _ in range(60):
        pool.submit(int)
    assert pool.stop(PATIENCE).drained
    assert len(spans.ended) == 60


def test_an_abandoned_task_with_a_hung_exporter(make_pool: MakePool, stuck: Stuck) -> None:
    """A stop that gives tasks up while the exporter hangs settles them and returns in its time."""
    pool = make_pool(1, tracer_provider=hanging_provider(stuck))
    pool.submit(int).result(PATIENCE)
    stuck.wait_reached()
    gate = BlockingTask()
    future = pool.submit(gate)
    gate.wait_started()
    began = time.monotonic()
    assert pool.stop(0.1).abandoned == ("BlockingTask",)
    assert time.monotonic() - began < 0.1 + WAITS + LEEWAY
    with pytest.raises(WorkerLostError):
        future.result(0)
    gate.release()
