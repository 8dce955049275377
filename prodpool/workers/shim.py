"""What runs in a worker process around each call: it measures, and brings home what came of it.

It touches no lock, logger, span processor or metric: a forked process may have inherited any of them
held for ever. Nothing that it returns can break the backend: a result or an exception that does not
pickle, or does not load again, is replaced by an error that says so.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from prodpool.errors import RemoteTaskError, UnpicklableError
from prodpool.telemetry.stacks import own_frames_dropped
from prodpool.workers.beacon import mark

# What a backend carries as it is; anything else travels as bytes of our own making.
_PLAIN = frozenset({type(None), bool, int, float, str})
_PROPAGATOR = TraceContextTextMapPropagator()


class Ticket(NamedTuple):
    """What the shim has to know about the call. It is pickled with each one, so it is kept small.

    Attributes:
        pool: The pool's name.
        task: The task's name.
        number: The hand-over's number, which the beacon is marked with.
        beacon: Path of the beacon's file; None where the worker cannot see it.
        slot: Where in it to mark.
        carrier: W3C trace context; None while nothing is traced.
    """

    pool: str
    task: str
    number: int
    beacon: str | None
    slot: int
    carrier: Mapping[str, str] | None


class Outcome(NamedTuple):
    """How a call went. ``started`` and ``ended`` are seconds of the worker host's monotonic clock.

    Attributes:
        value: The result, as bytes if ``pickled``; None after an error.
        error: The exception as bytes (``pickled``) or as it is; None after a result.
        stack: The exception's stack as text.
    """

    started: float
    ended: float
    pid: int
    pickled: bool
    value: Any
    error: Any
    stack: str | None


def run_pickled(ticket: Ticket, call: bytes) -> Outcome:
    """Load a call, make it, and return its outcome with result or exception as bytes."""
    started = time.monotonic()
    mark(ticket.beacon, ticket.slot, ticket.number, started)
    try:
        fn, args, kwargs = pickle.loads(call)  # noqa: S301  # bytes of our own, from the pool's process
    except BaseException as error:  # noqa: BLE001  # a class's __setstate__ may raise anything
        lost = _unpicklable(ticket, "the call does not load in the worker process", error)
        return _failed(ticket, started, lost, pickled=True)
    return _call(ticket, started, fn, args, kwargs, pickled=True)


def run_plain(
    ticket: Ticket, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Outcome:
    """Make a call for a backend of unknown kind, which carries everything as it sees fit."""
    return _call(ticket, time.monotonic(), fn, args, kwargs, pickled=False)


def _call(
    ticket: Ticket,
    started: float,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    pickled: bool,
) -> Outcome:
    try:
        with nullcontext() if ticket.carrier is None else _traced(ticket.carrier):
            value = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001  # SystemExit is the task's, not the worker's
        return _failed(ticket, started, error, pickled=pickled)
    ended = time.monotonic()
    if pickled and type(value) not in _PLAIN:
        try:
            value = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except BaseException as error:  # noqa: BLE001
            lost = _unpicklable(ticket, f"its result (a {type(value).__qualname__}) does not pickle", error)
            return _failed(ticket, started, lost, pickled=True)
    else:
        pickled = False
    return Outcome(started, ended, os.getpid(), pickled, value, None, None)


def _failed(ticket: Ticket, started: float, error: BaseException, *, pickled: bool) -> Outcome:
    ended = time.monotonic()
    error = error.with_traceback(own_frames_dropped(error.__traceback__))
    stack = _render(error)
    packed = _pack_error(ticket, error) if pickled else error
    return Outcome(started, ended, os.getpid(), pickled, None, packed, stack)


def _pack_error(ticket: Ticket, error: BaseException) -> bytes:
    try:
        data = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        # One whose __init__ does not take what it passed on breaks a whole process pool when it is loaded.
        pickle.loads(data)  # noqa: S301
    except BaseException:  # noqa: BLE001
        substitute = RemoteTaskError(pool=ticket.pool, task=ticket.task, error=type(error).__qualname__)
        return pickle.dumps(substitute, pickle.HIGHEST_PROTOCOL)
    return data


def _unpicklable(ticket: Ticket, what: str, error: BaseException) -> UnpicklableError:
    return UnpicklableError(pool=ticket.pool, task=ticket.task, what=what, error=error)


def _render(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:  # noqa: BLE001
        return f"{type(error).__qualname__} (its stack could not be rendered)"


@contextmanager
def _traced(carrier: Mapping[str, str]) -> Iterator[None]:
    """Make the span that a carrier names current, so that spans opened inside are its children."""
    token = context.attach(_PROPAGATOR.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)
