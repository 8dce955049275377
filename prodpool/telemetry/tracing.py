"""Spans: the wait in the queue and the run, children of what was current at submit.

Tracing costs nothing while no tracer provider is set: one comparison per task. The span of a task is
made when it starts, from times taken before, so that submit does no tracing at all. It is ended by a thread
of the tracing's own, with the time at which the task did: the end of a span is where exporters are called,
and they may hang.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode

from prodpool.concurrency.call_queue import CallQueue
from prodpool.task.ending import Ending, TaskObserver
from prodpool.task.outcomes import Reason, Result
from prodpool.telemetry import propagation
from prodpool.telemetry.counters import Exemplar
from prodpool.telemetry.tracebacks import render_error
from prodpool.text import full_type_name, said, type_name

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from prodpool.task.task import Task
    from prodpool.telemetry.telemetry_errors import TelemetryErrors

# Waits shorter than this many seconds get no span of their own; they would only clutter a waterfall.
QUEUE_SPAN_FROM = 0.001
# Looking for a global provider costs a microsecond, so it is done this often (seconds) and not per task.
_LOOK_AGAIN = 0.1
# Spans that may wait for an exporter that is slow or hangs, at some 3 kB each.
_CAPACITY = 4096
# Seconds for which ends of spans are gathered.
_REST = 0.005


class Tracing(TaskObserver):
    """Makes the spans of one pool. Nothing that a provider or exporter raises gets out of here."""

    def __init__(
        self, pool: str, provider: trace.TracerProvider | None, telemetry_errors: TelemetryErrors
    ) -> None:
        self._pool = pool
        self._telemetry_errors = telemetry_errors
        self._given = provider
        self._tracer = provider.get_tracer("prodpool") if provider is not None else None
        self._look_at = float("-inf")
        self._load_error_reported = False
        self.thread = CallQueue(
            f"prodpool-trace-{pool}",
            capacity=_CAPACITY,
            failed=partial(telemetry_errors.report, "trace"),
            lost=partial(telemetry_errors.overflow, "trace"),
            rest=_REST,
        )

    def open(self) -> None:
        """Start the thread with the pool if the pool was given a provider."""
        if self._given is not None:
            self.thread.open()

    def wanted(self, now: float) -> bool:
        """Tell whether a tracer provider is set; ``now`` in seconds of any steady clock."""
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
            self._telemetry_errors.report("trace", error)
        del task
        try:
            return fn(*args, **kwargs)
        finally:
            del fn, args, kwargs
            # Attach and detach in one frame, or OpenTelemetry complains.
            if token is not None:
                otel_context.detach(token)

    def hand_over(self, task: Task, now: float) -> dict[str, str] | None:
        """Begin the span of a task that runs in another process; return what the global propagator writes.

        It begins with the hand-over: its id has to be known before the task starts, and a span's start
        cannot be set later. Without a tracer provider the caller's own trace and baggage travel.
        """
        with self._telemetry_errors.guard("trace"):
            # A copy: a run that was given up may still be inside of it.
            parent = task.context.copy().run(otel_context.get_current)
            if not self.wanted(now):
                return self._inject(parent) if parent else None
            span = task.span
            if span is None:  # else it is handed over once more
                span = task.span = self._start(task, parent, now - task.admitted_at)
                task.recorded = span.is_recording()
            return self._inject(trace.set_span_in_context(span, parent))
        return None

    def _inject(self, context: Context) -> dict[str, str] | None:
        error = propagation.load_error()
        if error is not None and not self._load_error_reported:
            self._load_error_reported = True
            self._telemetry_errors.report("trace", error)
        return propagation.inject(context) or None

    def ended(self, task: Task, ending: Ending) -> None:
        """End the span of a task that ran; write a queue span for one that did not."""
        if isinstance(ending.kind, Reason):
            self._dropped(task, ending.kind, ending.dwell)
        else:
            self._finish(task, ending.kind, ending.error)

    def _finish(self, task: Task, result: str, error: BaseException | None) -> None:
        """Have the task's span ended, the first time; it ends now, whenever that is done."""
        span, recorded, task.recorded = task.span, task.recorded, False
        if span is None or not recorded:
            return
        ended = time.time_ns()
        if error is None:
            self.thread.post(_end, span, ended, result)
        else:
            # Rendered at once, in the thread of the task: no other thread may look at what it raised.
            failed = not isinstance(result, Result) or result.is_failure
            status = type_name(error) if failed else None
            self.thread.post(_end_raised, span, ended, result, status, self._describe(error))
        # Last: an interrupt in there must not lose the span.
        self.thread.apply_backpressure()

    def _dropped(self, task: Task, reason: Reason, dwell: float) -> None:
        """Write a queue span with an error status for a task that never ran."""
        if not self.wanted(task.admitted_at + dwell) or self._tracer is None:
            return
        with self._telemetry_errors.guard("trace"):
            parent = task.context.run(otel_context.get_current)
            self._post_queue_span(self._tracer, task, parent, time.time_ns(), dwell, reason.value)

    def exemplar(self, task: Task, value: float) -> Exemplar | None:
        """Return the link from a histogram to the trace of a sampled task."""
        if task.span is not None:
            with self._telemetry_errors.guard("trace"):
                context = task.span.get_span_context()
                if context.trace_flags.sampled:
                    ids = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
                    return Exemplar(*ids, value, time.time())
        return None

    def _look(self, now: float) -> bool:
        self._look_at = now + _LOOK_AGAIN
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            return False
        self._tracer = trace.get_tracer("prodpool")
        # The thread comes with the first span to be ended: this may be any thread, in the middle of anything.
        self.thread.keep_thread()
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
                self._post_queue_span(tracer, task, parent, started, dwell)
        return span

    def _post_queue_span(
        self,
        tracer: trace.Tracer,
        task: Task,
        parent: Context,
        ended: int,
        dwell: float,
        reason: str | None = None,
    ) -> None:
        began = ended - max(0, int(dwell * 1e9))
        self.thread.post(_queue_span, tracer, self._pool, task.name, parent, began, ended, reason)

    @staticmethod
    def _describe(error: BaseException) -> dict[str, str]:
        """Return what ``Span.record_exception`` would note of an error, which may refuse to be rendered."""
        return {
            "exception.type": full_type_name(error),
            "exception.message": said(error),
            "exception.stacktrace": render_error(error),
            "exception.escaped": "False",
        }


# What the thread does. Each gets plain values only, and no task: that holds arguments and results.


def _end(span: Span, ended: int, result: str) -> None:
    try:
        span.set_attribute("workerpool.result", result)
    finally:
        span.end(ended)


def _end_raised(span: Span, ended: int, result: str, status: str | None, exception: dict[str, str]) -> None:
    """End the span of a task that raised; ``status`` is None if that is no failure."""
    try:
        if status is not None:
            span.set_status(StatusCode.ERROR, status)
        span.add_event("exception", exception, timestamp=ended)
    finally:
        _end(span, ended, result)


def _queue_span(
    tracer: trace.Tracer,
    pool: str,
    task: str,
    parent: Context,
    began: int,
    ended: int,
    reason: str | None,
) -> None:
    span = tracer.start_span(f"workerpool.queue {task}", context=parent, start_time=began)
    try:
        if span.is_recording():
            span.set_attributes({"workerpool.pool": pool, "workerpool.task": task})
            if reason is not None:
                span.set_attribute("workerpool.reason", reason)
                span.set_status(StatusCode.ERROR, reason)
    finally:
        span.end(ended)
