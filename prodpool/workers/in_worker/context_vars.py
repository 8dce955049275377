"""Context variables that travel to a worker process with each task, on the application's request."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from typing import Any

from structlog import contextvars

from prodpool.config.context_variables import ALL, STRUCTLOG, structlog_key, variable


def read_vars(names: Sequence[str], context: Context) -> dict[str, Any]:
    """Return what those of ``names`` that are set in ``context`` are set to."""
    values: dict[str, Any] = {}
    for name in names:
        key = structlog_key(name)
        if key is not None:
            values |= _read_structlog(key, context)
        elif variable(name) in context:
            values[name] = context[variable(name)]
    return values


def assign_vars(values: Mapping[str, Any]) -> list[Callable[[], object]]:
    """Set variables; return what undoes that, to be called in reverse order."""
    undo: list[Callable[[], object]] = []
    for name, value in values.items():
        key = structlog_key(name)
        if key is None:
            undo.append(partial(variable(name).reset, variable(name).set(value)))
        else:
            tokens = contextvars.bind_contextvars(**{key: value})
            undo.append(partial(contextvars.reset_contextvars, **tokens))
    return undo


@contextmanager
def set_vars(values: Mapping[str, Any]) -> Iterator[None]:
    """Set variables for as long as the block runs."""
    undo = assign_vars(values)
    try:
        yield
    finally:
        for step in reversed(undo):
            step()


def _read_structlog(key: str, context: Context) -> dict[str, Any]:
    bound = context.run(contextvars.get_contextvars)
    return {f"{STRUCTLOG}:{each}": value for each, value in bound.items() if key in {ALL, each}}
