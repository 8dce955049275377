"""Context variables that travel to a worker process with each task, on the application's request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Context
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


def assign_vars(values: Mapping[str, Any]) -> None:
    """Set variables in the present context.

    Raises:
        ImportError, LookupError: This process has no such variable.
    """
    for name, value in values.items():
        key = structlog_key(name)
        if key is None:
            variable(name).set(value)
        else:
            contextvars.bind_contextvars(**{key: value})


def _read_structlog(key: str, context: Context) -> dict[str, Any]:
    # A copy: a run that was given up may still be inside of it.
    bound = context.copy().run(contextvars.get_contextvars)
    return {f"{STRUCTLOG}:{each}": value for each, value in bound.items() if key in {ALL, each}}
