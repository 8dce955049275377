"""The names of the context variables that an application wants in its worker processes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from prodpool.text import said, shown

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


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` if each is that of a variable.

    Raises:
        TypeError, ValueError: One is not; the message names it.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"context_vars={shown(names)} must be a list of names: {_WAY_OUT}")
    for name in names:
        try:
            variable(name)
        except (ImportError, LookupError, ValueError) as error:  # ValueError: an empty module name
            raise ValueError(f"context_vars={shown(names)}: {said(error)}: {_WAY_OUT}") from error
    return tuple(names)
