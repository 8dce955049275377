"""The spans: the run and the wait, whose children they are, what they carry, what they cost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from prodpool import InstrumentedPool, PoolFullError, PoolFuture
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import PATIENCE
from tests.support import ROOT, Logs, MakePool
from tests.telemetry.tracer import Spans, attributes_of, context_of, is_child


def boom() -> None:
    raise TaskError("went off")


def leave() -> None:
    raise SystemExit(3)


def behind(
    gate: BlockingTask, pool: InstrumentedPool, clock: ManualClock, dwell: float, fn: Callable[..., Any]
) -> None:
    """Run ``fn`` as task "waits" after a wait of ``dwell`` seconds."""
    pool.submit(gate)
    gate.wait_started()
    future = pool.options(task="waits").submit(fn)
    clock.advance(dwell)
    gate.release()
    future.exception(PATIENCE)


def test_the_task_span(make_pool: MakePool) -> None:
    """A task has one span, named after it, a child of what was current at submit, ended before its result."""
    spans = Spans()
    pool = make_pool(1, name="mail", tracer_provider=spans.provider)
    with spans.tracer.start_as_current_span("request"):
        future = pool.options(task="deliver").submit(len, "four")
    assert future.result(PATIENCE) == 4
    span = spans.named("workerpool.task deliver")
    assert is_child(span, spans.named("request"))
    assert attributes_of(span) == {
        "workerpool.pool": "mail",
        "workerpool.task": "deliver",
        "workerpool.result": "ok",
        "workerpool.dwell_seconds": attributes_of(span)["workerpool.dwell_seconds"],
    }
    assert (span.kind, span.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.start_time <= span.end_time
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "prodpool"


def test_the_wait_is_seen(make_pool: MakePool, gate: BlockingTask) -> None:
    """A wait is a span of its own beside the task's, from admission to start, and an event on the task's."""
    spans, clock = Spans(), ManualClock()
    pool = make_pool(1, name="mail", clock=clock, tracer_provider=spans.provider)
    with spans.tracer.start_as_current_span("request"):
        behind(gate, pool, clock, 2.0, bool)
    task, wait = spans.named("workerpool.task waits"), spans.named("workerpool.queue waits")
    assert is_child(task, spans.named("request"))
    assert is_child(wait, spans.named("request"))
    assert attributes_of(wait) == {"workerpool.pool": "mail", "workerpool.task": "waits"}
    assert wait.status.status_code is StatusCode.UNSET
    assert wait.start_time is not None
    assert wait.end_time == task.start_time == wait.start_time + 2_000_000_000
    assert attributes_of(task)["workerpool.dwell_seconds"] == 2.0
    assert [(event.name, dict(event.attributes or {}), event.timestamp) for event in task.events] == [
        ("workerpool.started", {"workerpool.dwell_seconds": 2.0}, task.start_time)
    ]


@pytest.mark.parametrize(("dwell", "seen"), [(0.0, False), (0.0009, False), (0.001, True), (60.0, True)])
def test_short_waits_have_no_span(make_pool: MakePool, gate: BlockingTask, dwell: float, seen: bool) -> None:
    """A wait has a span from 1 ms on."""
    spans, clock = Spans(), ManualClock()
    pool = make_pool(1, clock=clock, tracer_provider=spans.provider)
    behind(gate, pool, clock, dwell, bool)
    assert flush_telemetry(pool)
    assert ("workerpool.queue waits" in spans.names) is seen


def test_without_a_parent_both_are_one_trace(make_pool: MakePool, gate: BlockingTask) -> None:
    """Submitted outside of any span, the task begins a trace, and its wait is in that same trace."""
    spans, clock = Spans(), ManualClock()
    behind(gate, make_pool(1, clock=clock, tracer_provider=spans.provider), clock, 2.0, bool)
    task, wait = spans.named("workerpool.task waits"), spans.named("workerpool.queue waits")
    assert task.parent is None
    assert context_of(task).trace_id == context_of(wait).trace_id


@pytest.mark.parametrize(("fn", "result"), [(boom, "error"), (leave, "panic")])
def test_a_failure(make_pool: MakePool, fn: Callable[[], None], result: str) -> None:
    """A failed task's span has the exception, an error status and the result's word."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)
    error = pool.options(task="fails").submit(fn).exception(PATIENCE)
    span = spans.named("workerpool.task fails")
    assert attributes_of(span)["workerpool.result"] == result
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, type(error).__name__)
    exceptions = [dict(event.attributes or {}) for event in span.events if event.name == "exception"]
    assert len(exceptions) == 1
    assert str(exceptions[0]["exception.type"]).endswith(type(error).__name__)
    assert exceptions[0]["exception.message"] == str(error)
    assert fn.__name__ in str(exceptions[0]["exception.stacktrace"])


def test_spans_inside_are_children(make_pool: MakePool) -> None:
    """A span that a task opens is a child of the task's span."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)

    def task() -> None:
        with spans.tracer.start_as_current_span("inside"):
            pass

    pool.options(task="outside").submit(task).result(PATIENCE)
    assert is_child(spans.named("inside"), spans.named("workerpool.task outside"))


def test_tasks_of_tasks_are_children(make_pool: MakePool) -> None:
    """A task that a task submits, and even runs itself, is a child of that one's span."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)

    def outer() -> None:
        pool.options(task="inner").submit(bool).result(PATIENCE)

    pool.options(task="outer").submit(outer).result(PATIENCE)
    assert is_child(spans.named("workerpool.task inner"), spans.named("workerpool.task outer"))


def test_a_task_run_by_its_caller(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that its submitter runs has a span as well, and leaves the submitter's span current."""
    spans = Spans()
    pool = make_pool(1, queue_capacity=0, overload="caller_runs", tracer_provider=spans.provider)
    pool.submit(gate)
    gate.wait_started()
    with spans.tracer.start_as_current_span("request") as request:
        pool.options(task="run here").submit(bool).result(0)
        assert trace.get_current_span() is request
    assert is_child(spans.named("workerpool.task run here"), spans.named("request"))


def test_the_context_of_the_submit_goes_along(make_pool: MakePool) -> None:
    """Baggage of the submitter is there in the task, and nothing of a task is left in its worker."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)

    def look() -> tuple[object, bool]:
        return baggage.get_baggage("tenant"), trace.get_current_span().get_span_context().is_valid

    token = otel_context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        future = pool.submit(look)
    finally:
        otel_context.detach(token)
    assert future.result(PATIENCE) == ("acme", True)
    seen_after: list[bool] = []
    gate, called = BlockingTask(), threading.Event()
    future = pool.submit(gate)
    future.add_done_callback(lambda _: seen_after.append(look()[1]))
    future.add_done_callback(lambda _: called.set())
    gate.release()
    assert called.wait(PATIENCE)
    assert seen_after == [False]


# Tasks that never ran


def cancel(pool: InstrumentedPool, clock: ManualClock, future: PoolFuture[Any]) -> None:
    assert future.cancel()


def expire(pool: InstrumentedPool, clock: ManualClock, future: PoolFuture[Any]) -> None:
    clock.advance(10.0)
    pool._engine.settlement.drop_expired()


def shut_down(pool: InstrumentedPool, clock: ManualClock, future: PoolFuture[Any]) -> None:
    pool.stop(deadline=0)


@pytest.mark.parametrize(
    ("drop", "reason", "waited"),
    [(cancel, "cancelled", 3.0), (expire, "expired", 13.0), (shut_down, "shutdown", 3.0)],
    ids=["cancelled", "expired", "shutdown"],
)
def test_a_dropped_task(
    make_pool: MakePool,
    gate: BlockingTask,
    drop: Callable[[InstrumentedPool, ManualClock, PoolFuture[Any]], None],
    reason: str,
    waited: float,
) -> None:
    """A task that never ran has the span of its wait, with an error status and the reason, and no other."""
    spans, clock = Spans(), ManualClock()
    pool = make_pool(1, name="mail", clock=clock, tracer_provider=spans.provider)
    pool.submit(gate)
    gate.wait_started()
    with spans.tracer.start_as_current_span("request"):
        future = pool.options(task="never", deadline=10.0).submit(bool)
    clock.advance(3.0)
    drop(pool, clock, future)
    span = spans.named("workerpool.queue never")
    assert is_child(span, spans.named("request"))
    assert attributes_of(span) == {
        "workerpool.pool": "mail",
        "workerpool.task": "never",
        "workerpool.reason": reason,
    }
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, reason)
    assert span.start_time is not None
    assert span.end_time == span.start_time + int(waited * 1e9)
    assert "workerpool.task never" not in spans.names


def test_a_refused_task_leaves_no_trace(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task that was refused by submit has no span."""
    spans = Spans()
    pool = make_pool(1, queue_capacity=0, clock=ManualClock(), tracer_provider=spans.provider)
    pool.submit(gate)
    gate.wait_started()
    with pytest.raises(PoolFullError):
        pool.submit(bool)
    gate.release()
    pool.stop()
    assert spans.names == ["workerpool.task BlockingTask"]


def test_a_broken_backend(registry: Any, logs: Logs) -> None:
    """A task whose backend broke before it ran has the span of its wait, with an error status."""
    from concurrent.futures import ThreadPoolExecutor

    spans = Spans()
    backend = ThreadPoolExecutor(1, initializer=boom)
    pool = InstrumentedPool(
        backend, name="test", registry=registry, tracer_provider=spans.provider, logger=logs.logger
    )
    assert pool.options(task="never").submit(bool).exception(PATIENCE) is not None
    pool.stop(1.0)
    assert spans.named("workerpool.queue never").status.status_code is StatusCode.ERROR


# What it costs, and when there is nobody to trace for


class FrugalSpan(NonRecordingSpan):
    """A span that is not recorded, and on which nothing may be spent."""

    def set_attribute(self, key: str, *_args: Any) -> None:
        raise AssertionError(f"set_attribute({key!r}) on a span that is not recorded")

    def set_attributes(self, *_args: Any) -> None:
        raise AssertionError("set_attributes on a span that is not recorded")

    def add_event(self, name: str, *_args: Any, **_kwargs: Any) -> None:
        raise AssertionError(f"add_event({name!r}) on a span that is not recorded")

    def record_exception(self, *_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("record_exception on a span that is not recorded")

    def set_status(self, *_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("set_status on a span that is not recorded")


class FrugalTracer(trace.NoOpTracer):
    """Makes spans that are not recorded, and notes how many and with what."""

    def __init__(self) -> None:
        self.started: list[tuple[str, object]] = []

    def start_span(self, name: str, *_args: Any, attributes: object = None, **_kwargs: Any) -> trace.Span:
        self.started.append((name, attributes))
        return FrugalSpan(SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0)))


class FrugalProvider(trace.TracerProvider):
    """Hands out the frugal tracer."""

    def __init__(self) -> None:
        self.tracer = FrugalTracer()

    def get_tracer(self, *_args: Any, **_kwargs: Any) -> trace.Tracer:
        return self.tracer


@pytest.mark.parametrize("fn", [bool, boom])
def test_an_unsampled_task_costs_one_span_and_nothing_more(
    make_pool: MakePool, gate: BlockingTask, fn: Callable[[], object]
) -> None:
    """For an unsampled task one span is made, without attributes, events or a span of its wait."""
    provider, clock = FrugalProvider(), ManualClock()
    pool = make_pool(1, clock=clock, tracer_provider=provider)
    behind(gate, pool, clock, 2.0, fn)
    assert flush_telemetry(pool)
    assert provider.tracer.started == [
        ("workerpool.task BlockingTask", None),
        ("workerpool.task waits", None),
    ]
    assert pool._engine.telemetry_errors.counts()["trace"] == 0


def test_an_unsampled_task_that_was_dropped(make_pool: MakePool, gate: BlockingTask) -> None:
    """For an unsampled task that was dropped no attribute is set either."""
    provider = FrugalProvider()
    pool = make_pool(1, tracer_provider=provider)
    pool.submit(gate)
    assert pool.options(task="never").submit(bool).cancel()
    assert flush_telemetry(pool)
    assert ("workerpool.queue never", None) in provider.tracer.started
    assert pool._engine.telemetry_errors.counts()["trace"] == 0


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ParentBased(ALWAYS_OFF)], ids=["off", "parent based"])
def test_unsampled_spans_are_not_exported(make_pool: MakePool, sampler: Any) -> None:
    """What the sampler turns down is not exported; the task is run as ever, its trace goes on inside."""
    spans = Spans(sampler)
    pool = make_pool(1, tracer_provider=spans.provider)
    with spans.tracer.start_as_current_span("request") as request:
        future = pool.submit(lambda: trace.get_current_span().get_span_context())
    inside = future.result(PATIENCE)
    assert inside.trace_id == request.get_span_context().trace_id
    assert not inside.trace_flags.sampled
    assert flush_telemetry(pool)
    assert spans.ended == ()


def test_without_a_provider_no_span_is_made(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the application has set no provider, no tracer is asked for anything."""
    asked: list[str] = []
    monkeypatch.setattr(trace, "get_tracer", lambda *_args, **_kwargs: asked.append("tracer"))
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    for _ in range(10):
        clock.advance(1.0)
        pool.submit(bool).result(PATIENCE)
    pool.submit(boom).exception(PATIENCE)
    assert asked == []


LATE_PROVIDER = """
from opentelemetry import trace
from prometheus_client import CollectorRegistry
import prodpool
from prodpool.testing import ManualClock, flush_telemetry
from tests.telemetry.tracer import Spans

clock = ManualClock()
pool = prodpool.threads(name="early", max_workers=1, clock=clock, registry=CollectorRegistry())
pool.options(task="before").submit(bool).result(10)
spans = Spans()
trace.set_tracer_provider(spans.provider)
clock.advance(1.0)
pool.options(task="after").submit(bool).result(10)
pool.stop(5)
print(*spans.names, sep="\\n")
"""


def test_a_provider_set_after_the_pool_was_built() -> None:
    """A pool built at import time uses the provider that the application sets later."""
    run = subprocess.run(
        [sys.executable, "-c", LATE_PROVIDER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (run.stdout, run.stderr) == ("workerpool.task after\n", "")


def test_a_burst_loses_no_span(make_pool: MakePool) -> None:
    """Workers that are never idle leave the thread that ends their spans the time to keep up with them."""
    # A busy machine may leave it too little all the same: then what is lost is counted. A quiet moment comes.
    lost = 0
    for _ in range(4):
        spans = Spans()
        pool = make_pool(8, queue_capacity=8_000, tracer_provider=spans.provider)
        futures = [pool.submit(bool) for _ in range(8_000)]
        assert not any(future.result(PATIENCE) for future in futures)
        pool.stop(PATIENCE)
        lost = pool._engine.telemetry_errors.counts()["trace"]
        # The span of the wait, where there was one, has ended before that of the run.
        assert 8_000 - lost <= spans.names.count("workerpool.task bool") <= 8_000
        if not lost:
            return
    pytest.fail(f"{lost} of 8,000 spans were lost, and some in each of four bursts")


# The ties to logs and metrics


def test_log_lines_bear_the_ids(make_pool: MakePool, logs: Logs) -> None:
    """The log line of a failed task bears the ids of its span; of an untraced one it bears none."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider)
    pool.options(task="fails").submit(boom).exception(PATIENCE)
    context = context_of(spans.named("workerpool.task fails"))
    line = logs.wait_for("task.error")
    assert line["trace_id"] == trace.format_trace_id(context.trace_id)
    assert line["span_id"] == trace.format_span_id(context.span_id)
    make_pool(1).submit(boom).exception(PATIENCE)
    assert "trace_id" not in logs.wait_for("task.error", count=2)
