"""The log events of one pool. They never break a task, flood the log or show arguments.

A line is made up where it is due and written by a thread of the log's own, so that a sink that hangs holds
up no task. Stacks are rendered at once, as text without local variables, and never handed on as ``exc_info``:
structlog's own traceback renderers print locals by default, and locals hold task arguments.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

from opentelemetry import trace

from prodpool.concurrency.call_queue import CallQueue, has_exit_begun
from prodpool.config.settings import PoolSettings
from prodpool.task.ending import Ending, TaskObserver
from prodpool.task.outcomes import LossCause, Result
from prodpool.task.task import Task
from prodpool.telemetry.loggers import LoggerResolver, silent_if_closed
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.telemetry.tracebacks import render_error
from prodpool.text import first_line, shown, type_name

# A task that fails is logged with its stack; a thousand that fail alike are logged ten a second.
_BURST = 100.0
_PER_SECOND = 10.0
_LIMITED = frozenset(
    {
        *("task.error", "task.panic", "task.cancelled", "task.expected", "task.slow"),
        *("task.callback_error", "pool.worker_lost"),
    }
)
# The event for each result of a task that raised, and its level.
_RAISED = {
    Result.ERROR: ("task.error", "warning"),
    Result.TIMEOUT: ("task.error", "warning"),
    Result.PANIC: ("task.panic", "error"),
    Result.CANCELLED: ("task.cancelled", "info"),
    Result.EXPECTED: ("task.expected", "info"),
}
_AT_INFO = frozenset(event for event, level in _RAISED.values() if level == "info")
# Lines that may wait for a sink that is slow or hangs. One with a long stack takes some 10 kB.
_CAPACITY = 1000
# Microseconds are as fine as anybody reads a duration.
_DIGITS = 6


class TokenBucket:
    """Lets ``burst`` events through at once and ``per_second`` after that, and counts the rest."""

    __slots__ = ("_burst", "_last", "_lock", "_now", "_per_second", "_tokens", "suppressed")

    def __init__(self, burst: float, per_second: float, now: Callable[[], float]) -> None:
        # Reentrant: a signal handler may come upon an error while its thread is in here.
        self._lock = threading.RLock()
        self._burst = burst
        self._per_second = per_second
        self._now = now
        self._tokens = burst
        self._last = now()
        self.suppressed = 0

    def take(self) -> bool:
        """Take one token; without one, count the event as suppressed."""
        with self._lock:
            now = self._now()
            self._tokens = min(self._burst, self._tokens + (now - self._last) * self._per_second)
            self._last = now
            if self._tokens < 1.0:
                self.suppressed += 1
                return False
            self._tokens -= 1.0
            return True

    def reset(self) -> int:
        """Return how many events were suppressed since the last call."""
        with self._lock:
            suppressed, self.suppressed = self.suppressed, 0
            return suppressed


class PoolLog:
    """Writes events with the pool's name in each. The logger is resolved when the first is written."""

    def __init__(
        self, settings: PoolSettings, logger: Any, telemetry_errors: TelemetryErrors, now: Callable[[], float]
    ) -> None:
        self._pool = settings.name
        self._levels = settings.log_levels or {}
        self._messages = settings.log_messages
        self._resolve = LoggerResolver(logger)
        self._telemetry_errors = telemetry_errors
        self.thread = self._new_thread()
        self._buckets = {event: TokenBucket(_BURST, _PER_SECOND, now) for event in _LIMITED}

    def forked(self) -> None:
        """Go on in a forked child, where the thread is missing."""
        self.thread = self._new_thread()

    def _new_thread(self) -> CallQueue:
        return CallQueue(
            f"prodpool-log-{self._pool}",
            capacity=_CAPACITY,
            failed=partial(self._telemetry_errors.report, "log"),
            lost=partial(self._telemetry_errors.overflow, "log"),
        )

    def created(self, backend: str, settings: PoolSettings) -> None:
        """Write ``pool.created``."""
        workers, queue_capacity = settings.max_workers, settings.queue_capacity
        self.info("pool.created", backend=backend, workers=workers, queue_capacity=queue_capacity)

    def info(self, event: str, **fields: object) -> None:
        """Write a lifecycle event."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write an event that a person should look at by day."""
        self._write("warning", event, fields)

    def task_still_running(self, task: Task, name: str, **fields: object) -> None:
        """Write ``task.still_running``."""
        self._write("warning", "task.still_running", {**task_fields(task), "task": name, **fields}, task)

    def task_abandoned(self, task: Task, name: str, **fields: object) -> None:
        """Write ``task.abandoned``."""
        self._write("error", "task.abandoned", {**task_fields(task), "task": name, **fields}, task)

    def error(self, event: str, **fields: object) -> None:
        """Write an event that a person should look at now."""
        self._write("error", event, fields)

    def task_raised(self, task: Task, result: Result, error: BaseException, **fields: object) -> None:
        """Write the event of ``result``, with the task's own stack unless the exception was expected."""
        event, level = _RAISED[result]
        if self._buckets[event].take():
            fields["error"] = type_name(error)
            if self._messages:
                fields["error_message"] = first_line(error)
            if result is not Result.EXPECTED:
                fields["stack"] = render_error(error, messages=self._messages)
            self._write(level, event, {**task_fields(task), **fields}, task)

    def task_slow(self, task: Task, **fields: object) -> None:
        """Write ``task.slow``."""
        if self._buckets["task.slow"].take():
            self._write("warning", "task.slow", {**task_fields(task), **fields}, task)

    def describe(self, error: BaseException) -> str:
        """Return an exception in one line, or its class where the log is to have no texts of exceptions."""
        return shown(error) if self._messages else type_name(error)

    def worker_lost(self, cause: LossCause, task: Task | None, **fields: object) -> None:
        """Write ``pool.worker_lost``; ``task`` is what the worker ran."""
        if self._buckets["pool.worker_lost"].take():
            about = {} if task is None else task_fields(task)
            self._write("warning", "pool.worker_lost", {"cause": cause.value, **about, **fields}, task)

    def callback_failed(self, callback: str, error: BaseException) -> None:
        """Write ``task.callback_error`` with the callback's own stack."""
        if self._buckets["task.callback_error"].take():
            stack = render_error(error, messages=self._messages)
            fields = {"error": type_name(error), "stack": stack}
            self._write("error", "task.callback_error", {"callback": callback, **fields})

    def flush_suppressed(self) -> None:
        """Write how many lines were suppressed where no later line has said so."""
        for event, bucket in self._buckets.items():
            if bucket.suppressed:
                level = "info" if event in _AT_INFO else "warning"
                self._write(level, event, {"suppressed": bucket.reset(), "summary": True})

    def _write(self, method: str, event: str, fields: dict[str, object], task: Task | None = None) -> None:
        bucket = self._buckets.get(event)
        if bucket is not None and bucket.suppressed and "suppressed" not in fields:
            fields["suppressed"] = bucket.reset()
        fields = {
            key: round(value, _DIGITS) if isinstance(value, float) else value for key, value in fields.items()
        }
        # In the context of the task, or of here: what the application has bound to it (structlog.contextvars,
        # the current span, what a logging filter reads) is to be in the line.
        context = copy_context() if task is None else task.context.copy()
        self.thread.post(context.run, self._hand_over, self._levels.get(event, method), event, fields)

    def _hand_over(self, method: str, event: str, fields: dict[str, object]) -> None:
        with silent_if_closed() if has_exit_begun() else nullcontext():
            getattr(self._resolve(), method)(event, pool=self._pool, **fields)


class TaskLog(TaskObserver):
    """Writes of the tasks that raised or were slow; the log itself thins out what comes too often."""

    def __init__(self, log: PoolLog, slow_after: float) -> None:
        self._log = log
        self._slow_after = slow_after

    def ended(self, task: Task, ending: Ending) -> None:
        """Write the event of what the task raised, ``task.slow``, both or nothing."""
        kind, error, dwell, duration, _ = ending
        if not isinstance(kind, Result):
            return
        if error is not None:
            self._log.task_raised(task, kind, error, duration=duration)
        if duration >= self._slow_after:
            self._log.task_slow(
                task, dwell=dwell, duration=duration, slow_after=self._slow_after, result=kind.value
            )


def task_fields(task: Task) -> dict[str, object]:
    """Return the fields that say which task a line is about, and tie it to its trace if it has one."""
    fields: dict[str, object] = {"task": task.name}
    span = task.span
    with suppress(Exception):  # the application's own kind of span
        if span is not None and (context := span.get_span_context()).is_valid:
            fields["trace_id"] = trace.format_trace_id(context.trace_id)
            fields["span_id"] = trace.format_span_id(context.span_id)
    return fields
