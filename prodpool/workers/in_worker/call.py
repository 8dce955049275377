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
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import Context
from pathlib import Path
from types import CoroutineType
from typing import Any, NamedTuple

from opentelemetry import context, propagate

from prodpool.errors import RemoteTaskError, UnpicklableError
from prodpool.execution.current_task import CurrentTask, thread_state
from prodpool.task.around_call import AroundCall
from prodpool.task.cancellation import CancelToken
from prodpool.task.coroutines import coroutine_refusal
from prodpool.task.task import Task, TaskOptions
from prodpool.telemetry.tracebacks import without_own_frames
from prodpool.text import short_stack, type_name
from prodpool.workers.in_worker.context_vars import set_vars

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
        around_errors: Stacks of what the application's context manager around it raised.
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
    around_errors: tuple[str, ...] = ()


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
    result = _call(header, started, fn, args, kwargs, variables, dumps=dumps, is_cancelled=is_cancelled)
    return _with_around_errors(result, fn)


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
    started = time.monotonic()
    if _has_expired(header.info, started):
        return CallResult(started, started, this_host(), pickled=False, value=None, expired=True)
    return _with_around_errors(_call(header, started, fn, args, kwargs, variables, dumps=None), fn)


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
    outer, thread_state.remote = thread_state.remote, RemoteCurrentTask(header, started, is_cancelled)
    try:
        with ExitStack() as around:
            if variables:
                around.enter_context(set_vars(variables))
            if header.trace_context is not None:
                around.enter_context(_traced(header.trace_context))
            value = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001  # SystemExit is the task's, not the worker's
        return failed_result(header, started, error, dumps)
    finally:
        thread_state.remote = outer
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


def _with_around_errors(result: CallResult, fn: Any) -> CallResult:
    if type(fn) is AroundCall and fn.errors:
        return result._replace(around_errors=tuple(map(_render, fn.errors)))
    return result


def failed_result(
    header: CallHeader, started: float, error: BaseException, dumps: Dumps | None
) -> CallResult:
    """Return the outcome of a call that raised ``error``, as bytes if there are ``dumps``."""
    ended = time.monotonic()
    BaseException.with_traceback(error, without_own_frames(error.__traceback__))
    stack = _render(error)
    packed = error if dumps is None else _pack_error(header, error, dumps)
    return CallResult(started, ended, this_host(), dumps is not None, None, packed, stack)


def _pack_error(header: CallHeader, error: BaseException, dumps: Dumps) -> bytes:
    """Pickle an exception: as it is, else without its ``__init__``, else what stands in for it."""
    for form in (lambda: error, lambda: Rebuilt.of(error)):
        try:
            data = dumps(form())
            # One whose __init__ does not take what it passed on would not load in the pool's process.
            if type(pickle.loads(data)) is type(error):  # noqa: S301
                return data
        except BaseException:  # noqa: BLE001, S110  # its own code, which may raise anything
            pass
    kinds = tuple(f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    substitute = RemoteTaskError(pool=header.pool, task=header.task, error=type_name(error), kinds=kinds)
    return pickle.dumps(substitute, pickle.HIGHEST_PROTOCOL)


class Rebuilt:
    """Pickles as an exception that is made anew from its class, ``args`` and attributes.

    By itself it pickles as a call of its class with ``args``, which fails where ``__init__`` takes others.
    """

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        self._parts = kind, args, attributes

    @classmethod
    def of(cls, error: BaseException) -> Rebuilt:
        """Return what pickles as ``error``."""
        attributes = {name: value for name, value in vars(error).items() if name != "__notes__"}
        # Not ``args``: those of an OSError leave out the file's name.
        args: tuple[Any, ...] = _builtin(type(error)).__reduce__(error)[1]
        return cls(type(error), args, attributes)

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_error, self._parts


def rebuild_error(
    kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]
) -> BaseException:
    """Make an exception without an ``__init__`` but that of the interpreter's own class."""
    error = kind.__new__(kind, *args)
    _builtin(kind).__init__(error, *args)
    # Not by assignment: an exception may be a frozen dataclass.
    vars(error).update(attributes)
    return error


def _builtin(kind: type[BaseException]) -> Any:
    """Return the interpreter's own class that an exception's class is derived from."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _unpicklable(header: CallHeader, what: str, error: BaseException) -> UnpicklableError:
    return UnpicklableError(pool=header.pool, task=header.task, what=what, error=error)


def _render(error: BaseException) -> str:
    try:
        return short_stack(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001
        return f"{type_name(error)} (its stack could not be rendered)"


@contextmanager
def _traced(trace_context: Mapping[str, str]) -> Iterator[None]:
    """Make the span of the task current, so that spans opened inside are its children."""
    token = context.attach(propagate.extract(trace_context))
    try:
        yield
    finally:
        context.detach(token)


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
