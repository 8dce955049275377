"""The log events of one pool. They never break a task, flood the log or show arguments.

A line is made up where it is due and written by a thread of the log's own, so that a sink that hangs holds
up no task. Stacks are rendered at once, as text without local variables, and never handed on as ``exc_info``:
structlog's own traceback renderers print locals by default, and locals hold task arguments.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import structlog
from opentelemetry import trace

from prodpool.concurrency.call_queue import CallQueue
from prodpool.config.settings import PoolSettings
from prodpool.task.ending import Ending, TaskObserver
from prodpool.task.outcomes import Result
from prodpool.task.task import Task
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.telemetry.tracebacks import render_error
from prodpool.text import type_name

# A task that fails is logged with its stack; a thousand that fail alike are logged ten a second.
_BURST = 100.0
_PER_SECOND = 10.0
_LIMITED = frozenset({"task.error", "task.panic", "task.slow", "task.callback_error"})
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

    def task_failed(self, task: Task, result: Result, error: BaseException, **fields: object) -> None:
        """Write ``task.error`` or ``task.panic`` with the task's own stack."""
        panic = result is Result.PANIC
        event = "task.panic" if panic else "task.error"
        if self._buckets[event].take():
            fields["error"] = type_name(error)
            fields["stack"] = render_error(error)
            self._write("error" if panic else "warning", event, {**task_fields(task), **fields}, task)

    def task_slow(self, task: Task, **fields: object) -> None:
        """Write ``task.slow``."""
        if self._buckets["task.slow"].take():
            self._write("warning", "task.slow", {**task_fields(task), **fields}, task)

    def callback_failed(self, callback: str, error: BaseException) -> None:
        """Write ``task.callback_error`` with the callback's own stack."""
        if self._buckets["task.callback_error"].take():
            fields = {"error": type_name(error), "stack": render_error(error)}
            self._write("error", "task.callback_error", {"callback": callback, **fields})

    def flush_suppressed(self) -> None:
        """Write how many lines were suppressed where no later line has said so."""
        for event, bucket in self._buckets.items():
            if bucket.suppressed:
                self._write("warning", event, {"suppressed": bucket.reset(), "summary": True})

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
        getattr(self._resolve(), method)(event, pool=self._pool, **fields)


class TaskLog(TaskObserver):
    """Writes of the tasks that failed or were slow; the log itself thins out what comes too often."""

    def __init__(self, log: PoolLog, slow_after: float) -> None:
        self._log = log
        self._slow_after = slow_after

    def ended(self, task: Task, ending: Ending) -> None:
        """Write ``task.error``, ``task.panic`` or ``task.slow``, or nothing."""
        kind, error, dwell, duration, _ = ending
        if not isinstance(kind, Result):
            return
        if error is not None:
            self._log.task_failed(task, kind, error, duration=duration)
        if duration >= self._slow_after:
            self._log.task_slow(task, dwell=dwell, duration=duration, result=kind.value)


def task_fields(task: Task) -> dict[str, object]:
    """Return the fields that say which task a line is about, and tie it to its trace if it has one."""
    fields: dict[str, object] = {"task": task.name}
    span = task.span
    with suppress(Exception):  # the application's own kind of span
        if span is not None and (context := span.get_span_context()).is_valid:
            fields["trace_id"] = trace.format_trace_id(context.trace_id)
            fields["span_id"] = trace.format_span_id(context.span_id)
    return fields


class LoggerResolver:
    """Finds the logger: the one passed in, structlog's if the application configured it, else stdlib's.

    Looked at anew for each line, since an application may well configure structlog after it has built
    its pools. Unconfigured, ``structlog.get_logger()`` would print to standard output; a library must not.
    """

    def __init__(self, given: Any) -> None:
        of_stdlib = isinstance(given, logging.Logger | logging.LoggerAdapter)
        self._given = StdlibLogger(given) if of_stdlib else given
        self._stdlib: Any = None
        self._structlog: Any = None

    def __call__(self) -> Any:
        """Return the logger to use now, in a thread where no event loop runs."""
        if self._given is not None:
            self._given = _synchronous(self._given)
            return self._given
        if structlog.is_configured():
            self._structlog = _synchronous(self._structlog or structlog.get_logger("prodpool"))
            return self._structlog
        if self._stdlib is None:
            logger = logging.getLogger("prodpool")
            if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                logger.addHandler(logging.NullHandler())
            self._stdlib = StdlibLogger(logger)
        return self._stdlib


def _synchronous(logger: Any) -> Any:
    """Return the synchronous logger in structlog's AsyncBoundLogger: no loop would ever write the lines."""
    if not type(logger).__module__.startswith("structlog."):
        return logger
    try:
        bound = logger.bind()
    except RuntimeError:
        # One can only be made where a loop runs.
        with asyncio.Runner() as runner:
            runner.get_loop()
            bound = runner.run(_bind(logger))
    return bound.sync_bl if isinstance(bound, structlog.stdlib.AsyncBoundLogger) else logger


async def _bind(logger: Any) -> Any:
    return logger.bind()


class StdlibLogger:
    """Writes events to a logger of the standard library, as ``event key=value ...`` with the stack below.

    All records of an event have one template, by which error trackers group them. The fields are attributes
    of the record as well, for formatters and filters.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Write at level DEBUG."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write at level INFO."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write at level WARNING."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write at level ERROR."""
        self._log(logging.ERROR, event, fields)

    def critical(self, event: str, **fields: object) -> None:
        """Write at level CRITICAL."""
        self._log(logging.CRITICAL, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        line = " ".join(f"{key}={value}" for key, value in fields.items() if key != "stack")
        stack = fields.get("stack")
        # The event is ours and has no "%"; a task's name may have one, and must not be taken for a format.
        template, args = (f"{event} %s", (line,)) if stack is None else (f"{event} %s\n%s", (line, stack))
        logger: Any = self._logger
        options: dict[str, Any] = {"extra": fields}
        if isinstance(logger, logging.LoggerAdapter):
            # It would replace our fields by its own.
            template, its_own = logger.process(template, dict(options))
            options = {**its_own, "extra": {**fields, **(its_own.get("extra") or {})}}
            logger = logger.logger
        try:
            logger.log(level, template, *args, **options)
        except KeyError:
            # The application's record factory makes an attribute of such a name: then ours are in the text.
            logger.log(level, template, *args, **{**options, "extra": None})
