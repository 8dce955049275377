"""What runs in a worker process around each call: it measures the call and returns its result.

It touches no lock, logger, span processor or metric: a forked process may have inherited any of them
held for ever. Nothing that it returns can break the backend: a result or an exception that does not
pickle, or does not load again, is replaced by an error that says so.
"""

from __future__ import annotations

import functools
import math
import pickle
import platform
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from pathlib import Path
from types import CoroutineType
from typing import Any, NamedTuple

from opentelemetry import context

from prodpool.errors import UnpicklableError
from prodpool.execution.current_task import CurrentTask, thread_state
from prodpool.task.around_call import AroundCall
from prodpool.task.cancellation import CancelToken
from prodpool.task.coroutines import coroutine_refusal
from prodpool.task.task import Task, TaskOptions
from prodpool.telemetry import propagation
from prodpool.telemetry.tracebacks import without_own_frames
from prodpool.text import type_name
from prodpool.workers.in_worker.context_vars import assign_vars
from prodpool.workers.in_worker.error_transport import pack_error, render

Dumps = Callable[[Any], bytes]

# What a backend carries as it is; anything else travels as bytes of our own making.
_PLAIN = frozenset({type(None), bool, int, float, str})


class TaskInfo(NamedTuple):
    """What a task may ask of itself.

    Attributes:
        attempt: Which run of it this is, from 1.
        timeout: Seconds it may run; None for no limit.
        left: Seconds that were left of its deadline when it was handed over; None without one.
        sent: When that was, in seconds of the monotonic clock of ``host``.
        host: Whose clock that is.
    """

    attempt: int
    timeout: float | None
    left: float | None
    sent: float
    host: str


class CallHeader(NamedTuple):
    """What a worker has to know about the call. It is pickled with each one, so it is kept small.

    Attributes:
        pool: The pool's name.
        task: The task's name.
        trace_context: What the global propagator of OpenTelemetry has written; None if there is nothing.
        info: What else the task may ask of itself; None for a first attempt without limits.
    """

    pool: str
    task: str
    trace_context: Mapping[str, str] | None
    info: TaskInfo | None


class CallResult(NamedTuple):
    """The result of a call. ``started`` and ``ended`` are seconds of the worker host's monotonic clock.

    Attributes:
        host: Whose clock that is.
        expired: Whether its deadline had passed, so that it was not made.
        telemetry_errors: What the application's propagator and its context manager around the call raised:
            each with its sink and stack.
        value: The result, as bytes if ``pickled``; None after an error.
        error: The exception as bytes (``pickled``) or as it is; None after a result.
        stack: The exception's stack as text.
    """

    started: float
    ended: float
    host: str
    pickled: bool
    value: Any
    error: Any = None
    stack: str | None = None
    expired: bool = False
    telemetry_errors: tuple[tuple[str, str], ...] = ()


@functools.cache
def this_host() -> str:
    """Name this host such that processes agree on it exactly if they have the same monotonic clock."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode()}"


def standard_dumps(value: Any) -> bytes:
    """Pickle as the standard library does."""
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def run_pickled(header: CallHeader, call: bytes, dumps: Dumps = standard_dumps) -> CallResult:
    """Load a call that a backend was handed, make it, and return its outcome, as `run_call` does."""
    return run_call(header, lambda: call, dumps)


def run_call(
    header: CallHeader,
    read_call: Callable[[], bytes | memoryview],
    dumps: Dumps,
    is_cancelled: Callable[[], bool] | None = None,
) -> CallResult:
    """Load a call, make it, and return its outcome with result or exception as bytes.

    Args:
        header: The names of pool and task, and what the task may ask of itself.
        read_call: Returns function, arguments and context variables, pickled; nothing keeps those meanwhile.
        dumps: Pickles the result.
        is_cancelled: Tells whether the pool wants the call to end; None where it has no way to say so.
    """
    started = time.monotonic()
    if _has_expired(header.info, started):
        return CallResult(started, started, this_host(), pickled=False, value=None, expired=True)
    try:
        fn, args, kwargs, variables = pickle.loads(read_call())  # noqa: S301  # our own, from the pool's process
    except BaseException as error:  # noqa: BLE001  # a class's __setstate__ may raise anything
        lost = _unpicklable(header, "the call does not load in the worker process", error)
        return failed_result(header, started, lost, dumps)
    # In a context of its own: what the call sets must not be there for the next one.
    return copy_context().run(
        _call, header, started, fn, args, kwargs, variables, dumps=dumps, is_cancelled=is_cancelled
    )


def call_each(fn: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Make several calls as one task."""
    return [fn(*args) for args in calls]


def run_plain(
    header: CallHeader,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> CallResult:
    """Make a call for a backend of unknown kind, which carries everything as it sees fit."""
    return copy_context().run(run_here, header, fn, args, kwargs, variables)


def run_here(
    header: CallHeader,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> CallResult:
    """Make a call in the present context, where what it sets stays."""
    started = time.monotonic()
    if _has_expired(header.info, started):
        return CallResult(started, started, this_host(), pickled=False, value=None, expired=True)
    return _call(header, started, fn, args, kwargs, variables, dumps=None)


def _has_expired(info: TaskInfo | None, started: float) -> bool:
    """Tell whether a deadline has passed since the hand-over, which only this host's clock can tell."""
    return (
        info is not None
        and info.left is not None
        and info.host == this_host()
        and started >= info.sent + info.left
    )


def _call(
    header: CallHeader,
    started: float,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    variables: Mapping[str, Any],
    *,
    dumps: Dumps | None,
    is_cancelled: Callable[[], bool] | None = None,
) -> CallResult:
    errors: list[tuple[str, str]] = []
    if isinstance(fn, AroundCall) and fn.report is None:
        fn.report = lambda error: errors.append(("around", render(error)))
    outer, thread_state.remote = thread_state.remote, RemoteCurrentTask(header, started, is_cancelled)
    try:
        assign_vars(variables)
        if header.trace_context is not None:
            _attach(header.trace_context, errors)
        result = _make_call(header, started, fn, args, kwargs, dumps)
    except BaseException as error:  # noqa: BLE001  # a context variable's module does not load here
        result = failed_result(header, started, error, dumps)
    finally:
        thread_state.remote = outer
    return result._replace(telemetry_errors=tuple(errors)) if errors else result


def _make_call(
    header: CallHeader,
    started: float,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dumps: Dumps | None,
) -> CallResult:
    try:
        value = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001  # SystemExit is the task's, not the worker's
        return failed_result(header, started, error, dumps)
    ended = time.monotonic()
    if type(value) is CoroutineType:
        return failed_result(header, started, coroutine_refusal(fn, value), dumps)
    pickled = dumps is not None and type(value) not in _PLAIN
    if pickled:
        try:
            value = (dumps or standard_dumps)(value)
        except BaseException as error:  # noqa: BLE001
            lost = _unpicklable(header, f"its result (a {type_name(value)}) does not pickle", error)
            return failed_result(header, started, lost, dumps)
    return CallResult(started, ended, this_host(), pickled, value)


def failed_result(
    header: CallHeader, started: float, error: BaseException, dumps: Dumps | None
) -> CallResult:
    """Return the outcome of a call that raised ``error``, as bytes if there are ``dumps``."""
    ended = time.monotonic()
    BaseException.with_traceback(error, without_own_frames(error.__traceback__))
    stack = render(error)
    packed = error if dumps is None else pack_error(header.pool, header.task, error, dumps)
    return CallResult(started, ended, this_host(), dumps is not None, None, packed, stack)


def _unpicklable(header: CallHeader, what: str, error: BaseException) -> UnpicklableError:
    return UnpicklableError(pool=header.pool, task=header.task, what=what, error=error)


def _attach(trace_context: Mapping[str, str], errors: list[tuple[str, str]]) -> None:
    """Make the span of the task current, so that spans opened inside are its children."""
    try:
        context.attach(propagation.extract(trace_context))
    except Exception as error:  # noqa: BLE001  # the application's propagator, which is not the task's fault
        errors.append(("trace", render(error)))


class RemoteCurrentTask:
    """Makes, when the call asks for it, what it may know of itself."""

    __slots__ = ("_is_cancelled", "_current", "_started", "_header")

    def __init__(self, header: CallHeader, started: float, is_cancelled: Callable[[], bool] | None) -> None:
        self._header = header
        self._is_cancelled = is_cancelled
        self._started = started
        self._current: CurrentTask | None = None

    def __call__(self) -> CurrentTask:
        """Return the same object each time."""
        if self._current is None:
            self._current = CurrentTask(self._task(), self._header.pool, self._started, time.monotonic)
        return self._current

    def _task(self) -> Task:
        """Stand in for the pool's record of the task, which is in another process."""
        header, started = self._header, self._started
        attempt, timeout, left, sent, host = header.info or TaskInfo(1, None, None, started, "")
        options = TaskOptions(task=header.task, timeout=timeout)
        task = Task(_nothing, (), {}, Context(), started, options)
        task.attempt = attempt
        if left is not None:
            task.expires_at = left + (sent if host == this_host() else started)
        task.cancel_token = CancelToken(self._time_left, self._cancel_requested)
        return task

    def _time_left(self) -> float:
        info = self._header.info
        if info is None or info.timeout is None:
            return math.inf
        return info.timeout - (time.monotonic() - self._started)

    def _cancel_requested(self) -> bool:
        return self._is_cancelled is not None and self._is_cancelled()


def _nothing() -> None:
    """Stand in for a call that is already being made."""
