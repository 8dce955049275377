"""Spans: the wait in the queue and the run, children of what was current at submit.

Tracing costs nothing while no tracer provider is set: one comparison per task. The span of a task is
made when it starts, from times taken before, so that submit does no tracing at all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from prodpool.telemetry.ledger import Exemplar
from prodpool.vocabulary import Reason

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from prodpool.task import Task
    from prodpool.telemetry.trouble import Trouble

# Waits shorter than this many seconds get no span of their own; they would only clutter a waterfall.
QUEUE_SPAN_FROM = 0.001
# Looking for a global provider costs a microsecond, so it is done this often (seconds) and not per task.
_LOOK_AGAIN = 0.1
_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one pool. Nothing that a provider or exporter raises gets out of here."""

    def __init__(self, pool: str, provider: trace.TracerProvider | None, trouble: Trouble) -> None:
        self._pool = pool
        self._trouble = trouble
        self._given = provider
        self._tracer = provider.get_tracer("prodpool") if provider is not None else None
        self._look_at = float("-inf")

    def wanted(self, now: float) -> bool:
        """Tell whether there is anybody to trace for; ``now`` in seconds of any steady clock."""
        if self._tracer is not None:
            return True
        return now >= self._look_at and self._look(now)

    def provider(self) -> trace.TracerProvider | None:
        """Return the provider in use, None while there is none."""
        if self._tracer is None:
            return None
        return self._given or trace.get_tracer_provider()

    def run(self, task: Task, started: float) -> Any:
        """Call the task with its span current; return what it returns, raise what it raises."""
        try:
            return task.context.run(self._run_inside, task, started)
        finally:
            # Its frame is in the traceback of what the task raised; `task` would close a cycle.
            del task

    def _run_inside(self, task: Task, started: float) -> Any:
        fn, args, kwargs = task.fn, task.args, task.kwargs
        token = None
        try:
            parent = otel_context.get_current()
            span = task.span = self._start(task, parent, started - task.admitted_at)
            task.recorded = span.is_recording()
            token = otel_context.attach(trace.set_span_in_context(span, parent))
        except BaseException as error:  # noqa: BLE001  # not `guard`: this is the hot path of a traced pool
            self._trouble.report("trace", error)
        del task
        try:
            return fn(*args, **kwargs)
        finally:
            del fn, args, kwargs
            # Attach and detach in one frame, or OpenTelemetry complains.
            if token is not None:
                otel_context.detach(token)

    def hand_over(self, task: Task, now: float) -> dict[str, str] | None:
        """Begin the span of a task that runs in another process; return it as W3C trace context.

        It begins with the hand-over: its id has to be known before the task starts, and a span's start
        cannot be set later.
        """
        with self._trouble.guard("trace"):
            parent = task.context.run(otel_context.get_current)
            span = task.span = self._start(task, parent, now - task.admitted_at)
            task.recorded = span.is_recording()
            if span.get_span_context().is_valid:
                carrier: dict[str, str] = {}
                _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, parent))
                return carrier
        return None

    def finish(self, task: Task, result: str, error: BaseException | None) -> None:
        """End the task's span, the first time."""
        span, recorded, task.recorded = task.span, task.recorded, False
        if span is None or not recorded:
            return
        with self._trouble.guard("trace"):
            span.set_attribute("workerpool.result", result)
            if error is not None:
                span.record_exception(error)
                span.set_status(StatusCode.ERROR, type(error).__qualname__)
            span.end()

    def dropped(self, task: Task, reason: Reason, now: float) -> None:
        """Leave a queue span with an error status for a task that never ran."""
        if not self.wanted(now) or self._tracer is None:
            return
        with self._trouble.guard("trace"):
            parent = task.context.run(otel_context.get_current)
            ended = time.time_ns()
            span = self._queue_span(self._tracer, task, parent, ended, now - task.admitted_at)
            if span.is_recording():
                span.set_attribute("workerpool.reason", reason.value)
                span.set_status(StatusCode.ERROR, reason.value)
            span.end(ended)

    def exemplar(self, task: Task, value: float) -> Exemplar | None:
        """Return the link from a histogram to the trace of a sampled task."""
        if task.span is not None:
            with self._trouble.guard("trace"):
                context = task.span.get_span_context()
                if context.trace_flags.sampled:
                    return Exemplar(trace.format_trace_id(context.trace_id), value, time.time())
        return None

    def _look(self, now: float) -> bool:
        self._look_at = now + _LOOK_AGAIN
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return False
        self._tracer = trace.get_tracer("prodpool")
        return True

    def _start(self, task: Task, parent: Context, dwell: float) -> Span:
        tracer = self._tracer or trace.get_tracer("prodpool")
        started = time.time_ns()
        span = tracer.start_span(f"workerpool.task {task.name}", context=parent, start_time=started)
        # A span that is not sampled costs no more than this; its wait gets no span either.
        if span.is_recording():
            span.set_attributes(
                {
                    "workerpool.pool": self._pool,
                    "workerpool.task": task.name,
                    "workerpool.dwell_seconds": dwell,
                }
            )
            span.add_event("workerpool.started", {"workerpool.dwell_seconds": dwell}, timestamp=started)
            if dwell >= QUEUE_SPAN_FROM:
                if not trace.get_current_span(parent).get_span_context().is_valid:
                    # Two roots would be two traces: without a parent the wait belongs to the task.
                    parent = trace.set_span_in_context(span, parent)
                with self._trouble.guard("trace"):
                    self._queue_span(tracer, task, parent, started, dwell).end(started)
        return span

    def _queue_span(
        self, tracer: trace.Tracer, task: Task, parent: Context, ended: int, dwell: float
    ) -> Span:
        span = tracer.start_span(
            f"workerpool.queue {task.name}", context=parent, start_time=ended - max(0, int(dwell * 1e9))
        )
        if span.is_recording():
            span.set_attributes({"workerpool.pool": self._pool, "workerpool.task": task.name})
        return span
