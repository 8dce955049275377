"""Promise 4: whatever raises while it observes is counted and reported once, and no task is touched."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pybreaker
import pytest
import structlog
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolFuture, Result, TaskExpiredError
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool
from tests.telemetry.scraping import value
from tests.telemetry.ticking import ticks
from tests.telemetry.tracer import Spans

KINDS: list[type[BaseException]] = [ValueError, SystemExit, GeneratorExit]


@dataclass
class Rig:
    """What is handed to a pool so that one sink of it raises: options, and what to do with each future."""

    sink: str
    options: dict[str, Any] = field(default_factory=dict)
    attend: Callable[[PoolFuture[Any]], None] = lambda _: None


def raising_log(kind: type[BaseException]) -> Rig:
    """A log whose processor raises at every line."""

    def processor(*_: object) -> Any:
        raise kind("bad processor")

    return Rig("log", {"logger": structlog.wrap_logger(None, processors=[processor]), "slow_after": 0.0})


def raising_handler(kind: type[BaseException]) -> Rig:
    """A stdlib logger with a filter that raises."""
    logger = logging.Logger("app")  # noqa: LOG001  # of this test alone, out of the logging tree

    def bad(_: logging.LogRecord) -> bool:
        raise kind("bad filter")

    logger.addFilter(bad)
    logger.addHandler(logging.NullHandler())
    return Rig("log", {"logger": logger, "slow_after": 0.0})


class RaisingProcessor(SpanProcessor):
    """A span processor that raises at the start or at the end of a span."""

    def __init__(self, kind: type[BaseException], when: str) -> None:
        self._kind = kind
        self._when = when

    def on_start(self, *_args: Any, **_kwargs: Any) -> None:
        if self._when == "start":
            raise self._kind("bad processor")

    def on_end(self, *_args: Any) -> None:
        if self._when == "end":
            raise self._kind("bad processor")


def raising_at_start(kind: type[BaseException]) -> Rig:
    """A span processor that raises at the start."""
    return Rig("trace", {"tracer_provider": Spans(ALWAYS_ON, RaisingProcessor(kind, "start")).provider})


def raising_at_end(kind: type[BaseException]) -> Rig:
    """A span processor that raises at the end."""
    return Rig("trace", {"tracer_provider": Spans(ALWAYS_ON, RaisingProcessor(kind, "end")).provider})


def raising_sampler(kind: type[BaseException]) -> Rig:
    """A sampler that raises."""

    class Bad(Sampler):
        def should_sample(self, *_args: Any, **_kwargs: Any) -> Any:
            raise kind("bad sampler")

        def get_description(self) -> str:
            return "bad"

    return Rig("trace", {"tracer_provider": Spans(Bad()).provider})


def raising_listener(kind: type[BaseException]) -> Rig:
    """A listener of a circuit breaker that raises whenever it hears of anything."""

    class Bad(pybreaker.CircuitBreakerListener):
        def state_change(self, *_args: object) -> None:
            raise kind("bad listener")

        def failure(self, *_args: object) -> None:
            raise kind("bad listener")

        def success(self, *_args: object) -> None:
            raise kind("bad listener")

    circuit = pybreaker.CircuitBreaker(fail_max=100, listeners=[Bad()])
    return Rig("breaker", {"breaker": circuit})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "rig",
    [
        raising_log,
        raising_handler,
        raising_at_start,
        raising_at_end,
        raising_sampler,
        raising_listener,
    ],
)
def test_a_raising_sink(
    make_pool: MakePool,
    registry: CollectorRegistry,
    reports: list[str],
    rig: Callable[[type[BaseException]], Rig],
    kind: type[BaseException],
) -> None:
    """Tasks end as they would, on the same worker, all counted; the trouble is counted and told once."""
    made = rig(kind)
    pool = make_pool(1, queue_capacity=10, **made.options)
    worker = pool.submit(threading.get_ident).result(PATIENCE)
    boom = LookupError("of the task")

    def fail() -> None:
        raise boom

    for _ in range(3):
        gate = BlockingTask()
        futures: list[PoolFuture[Any]] = [
            pool.submit(gate),
            pool.submit(threading.get_ident),
            pool.submit(fail),
        ]
        for future in futures:
            made.attend(future)
        gate.release()
        assert futures[1].result(PATIENCE) == worker
        assert futures[2].exception(PATIENCE) is boom
    report = pool.stop()
    assert (report.drained, report.abandoned) == (True, ())
    completed = pool.stats().completed
    assert (completed[Result.OK], completed[Result.ERROR]) == (7, 3)
    assert value(registry, "workerpool_telemetry_errors_total", sink=made.sink) >= 3
    others = pool._engine.telemetry_errors.counts()
    assert {sink for sink, count in others.items() if count} == {made.sink}
    told = [report for report in reports if f"pool=test sink={made.sink}" in report]
    assert len(told) == 1
    assert f"{kind.__name__}: bad" in told[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_raising_callbacks(make_pool: MakePool, logs: Logs, kind: type[BaseException]) -> None:
    """Each done-callback that raises is counted, and logged by its name with its stack."""
    pool = make_pool(1, queue_capacity=10)

    def bad(_: object) -> None:
        raise kind("bad callback")

    for number in range(3):
        gate = BlockingTask()
        future = pool.submit(gate)
        future.add_done_callback(bad)
        gate.release()
        future.result(PATIENCE)
        line = logs.wait_for("task.callback_error", count=number + 1)
        assert (line["callback"], line["error"]) == (bad.__qualname__, kind.__qualname__)
        assert "bad callback" in line["stack"]
    assert pool.stop().drained
    assert pool._engine.telemetry_errors.counts()["callback"] == 3


def test_a_raising_exporter(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """An exporter that raises is the SDK's affair, which catches it; the task notices nothing."""

    class Bad(SpanExporter):
        def export(self, *_args: Any) -> SpanExportResult:
            raise ValueError("bad exporter")

    spans = Spans(ALWAYS_ON, SimpleSpanProcessor(Bad()))
    pool = make_pool(1, tracer_provider=spans.provider)
    assert pool.submit(len, "four").result(PATIENCE) == 4
    assert isinstance(pool.submit(divmod, 1, 0).exception(PATIENCE), ZeroDivisionError)
    assert pool.stats().completed[Result.OK] == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_log_that_raises_where_a_pool_is_made(make_pool: MakePool, kind: type[BaseException]) -> None:
    """A log that raises does not keep a pool from being made, resized or stopped."""
    pool = make_pool(2, **raising_log(kind).options)
    pool.resize(1)
    assert pool.stop().drained
    assert pool._engine.telemetry_errors.counts()["log"] >= 4


@pytest.mark.parametrize("kind", [ValueError, SystemExit], ids=lambda kind: kind.__name__)
def test_the_watchdog_outlives_its_log(
    make_pool: MakePool, gate: BlockingTask, kind: type[BaseException]
) -> None:
    """A tick whose log raises goes on with everything else that a tick does."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=10.0, **{**raising_log(kind).options, "slow_after": 0.5})
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()
    expiring = pool.options(deadline=5.0).submit(len, "")
    assert flush_telemetry(pool)
    before = pool._engine.telemetry_errors.counts()["log"]
    clock.advance(20.0)
    tick()
    assert pool._engine.telemetry_errors.counts()["log"] > before
    assert isinstance(expiring.exception(PATIENCE), TaskExpiredError)


def test_the_watchdog_outlives_itself(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault in a tick is counted, and the next tick is made."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=10.0)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()
    clock.advance(10.0)

    def bad(_: object) -> str:
        raise MemoryError("bad stack")

    monkeypatch.setattr("prodpool.scheduling.worker.Worker.stack", bad)
    tick()
    clock.advance(100.0)
    tick()
    assert value(registry, "workerpool_telemetry_errors_total", sink="watchdog") == 2


def test_a_log_that_hangs_does_not_hold_a_stop(make_pool: MakePool, gate: BlockingTask) -> None:
    """A log sink that blocks does not keep stop() beyond its deadline."""
    stuck = threading.Event()

    def processor(_logger: object, _method: str, event: Any) -> Any:
        if event["event"] == "pool.draining":
            stuck.set()
            gate()
        raise structlog.DropEvent

    pool = make_pool(1, logger=structlog.wrap_logger(None, processors=[processor]))
    pool.submit(len, "").result(PATIENCE)
    assert pool.stop(deadline=0.1).drained
    assert stuck.wait(PATIENCE)


def test_a_callback_error_is_no_secret(make_pool: MakePool, logs: Logs) -> None:
    """The line about a raising callback has its stack but not the values in it."""
    pool, word = make_pool(1), "class" + "IFIED".lower()

    def bad(done: PoolFuture[str]) -> None:
        result = done.result()
        raise ValueError(len(result))

    gate = BlockingTask()
    future = pool.submit(gate, word)
    future.add_done_callback(bad)  # type: ignore[arg-type]
    gate.release()
    future.result(PATIENCE)
    line = logs.wait_for("task.callback_error")
    assert "in bad" in line["stack"]
    assert word not in repr(line)


def pools_of(*pools: InstrumentedPool) -> list[dict[str, int]]:
    return [pool._engine.telemetry_errors.counts() for pool in pools]


def test_each_pool_has_its_own_trouble(make_pool: MakePool) -> None:
    """One pool's trouble is not counted for another."""
    bad, good = make_pool(1, name="bad", **raising_log(ValueError).options), make_pool(1, name="good")
    for pool in (bad, good):
        pool.submit(len, "").result(PATIENCE)
        assert flush_telemetry(pool)
    assert [counts["log"] > 0 for counts in pools_of(bad, good)] == [True, False]
