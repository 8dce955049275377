"""The names of the context variables that an application wants in its tasks wherever they run."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from prodpool.text import said, shown

# What structlog has bound is no variable that a module holds. Its names are written as if it were.
STRUCTLOG = "structlog.contextvars"
# The name of all of it.
ALL = "*"
_WAY_OUT = "name each as 'module:variable', such as 'service.context:request_id'"


@functools.cache
def variable(name: str) -> ContextVar[Any]:
    """Return the variable called ``module:variable``.

    Raises:
        ImportError: There is no such module.
        LookupError: It has no context variable of that name.
    """
    module, _, attribute = name.partition(":")
    found = getattr(importlib.import_module(module), attribute, None)
    if not isinstance(found, ContextVar):
        raise LookupError(f"{name!r} is not a contextvars.ContextVar")  # noqa: TRY004  # it was not found
    return found


def structlog_key(name: str) -> str | None:
    """Return what a name calls of all that structlog has bound; None if it names a variable."""
    module, _, key = name.partition(":")
    return key if module == STRUCTLOG else None


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` if each is that of a variable, or of something that structlog may have bound.

    Raises:
        TypeError, ValueError: One is not; the message names it.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"context_vars={shown(names)} must be a list of names: {_WAY_OUT}")
    for name in names:
        try:
            if not structlog_key(name):
                variable(name)
        except (ImportError, LookupError, ValueError) as error:  # ValueError: an empty module name
            raise ValueError(f"context_vars={shown(names)}: {said(error)}: {_WAY_OUT}") from error
    return tuple(names)
