"""Context variables that travel to a worker process with each task, on the application's request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any

from prodpool.config.context_variables import variable


def read_vars(names: Sequence[str], context: Context) -> dict[str, Any]:
    """Return what those of ``names`` that are set in ``context`` are set to."""
    return {name: context[variable(name)] for name in names if variable(name) in context}


@contextmanager
def set_vars(values: Mapping[str, Any]) -> Iterator[None]:
    """Set variables for as long as the block runs."""
    tokens = [(variable(name), variable(name).set(value)) for name, value in values.items()]
    try:
        yield
    finally:
        for var, token in reversed(tokens):
            var.reset(token)
