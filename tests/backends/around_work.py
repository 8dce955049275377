"""Context managers around tasks, and tasks that look for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator

from prodpool import current_task

inside: ContextVar[str] = ContextVar("inside", default="nothing")


@contextmanager
def around() -> Iterator[None]:
    """Say what is inside."""
    task = current_task()
    assert task is not None
    token = inside.set(task.name)
    try:
        yield
    finally:
        inside.reset(token)


def seen() -> str:
    return inside.get()


@contextmanager
def fails_to_enter() -> Iterator[None]:
    raise ConnectionError("no connection to be had")
    yield


@contextmanager
def fails_to_leave() -> Iterator[None]:
    try:
        yield
    finally:
        raise ConnectionError("the connection cannot be given back")


def returns_nothing() -> Any:
    """Return no context manager."""


class Swallows:
    """Notes the class of the task's error, and wants to swallow it."""

    def __enter__(self) -> None:
        inside.set("entered")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        if kind is not None and kind is not LookupError:
            raise AssertionError(kind)
        return True


def looks_up(value: object) -> None:
    raise LookupError(value)


def context() -> tuple[dict[str, Any], dict[str, Any], int]:
    """Return the baggage, what structlog has bound and the id of the trace, as they are here."""
    bound = structlog.contextvars.get_contextvars()
    trace_id = trace.get_current_span().get_span_context().trace_id
    return dict(baggage.get_all()), bound, trace_id


@contextmanager
def leaks() -> Iterator[None]:
    """Set a variable and never set it back."""
    inside.set(f"{inside.get()}+")
    yield


def sets_and_sees() -> str:
    before = inside.get()
    inside.set(f"{before}+")
    return before


@contextmanager
def interrupted() -> Iterator[None]:
    raise KeyboardInterrupt
    yield


class BadPropagator(TextMapPropagator):
    """Writes, and cannot read."""

    def __init__(self, value: object = "value") -> None:
        self._value = value

    @property
    def fields(self) -> set[str]:
        return {"bad"}

    def inject(self, carrier: Any, *_: Any, **__: Any) -> None:
        carrier["bad"] = self._value

    def extract(self, *_: Any, **__: Any) -> Context:
        raise LookupError("nothing to be read")


def install_bad_propagator() -> None:
    """Do so in a worker process."""
    propagate.set_global_textmap(BadPropagator())
