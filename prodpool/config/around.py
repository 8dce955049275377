"""The context manager that an application has its tasks run in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias

from prodpool.text import said, shown

Around: TypeAlias = Callable[[], AbstractContextManager[Any]]

_WAY_OUT = (
    "pass a function without arguments that returns a context manager, such as app.app_context or one "
    "decorated with contextlib.contextmanager"
)


def check_around(around: object) -> None:
    """Check that ``around`` can be called for a context manager, or is None.

    Raises:
        TypeError: It cannot; the message says why and what would do.
    """
    try:
        why = None if around is None else _wrong(around)
    except Exception as error:  # noqa: BLE001  # its own code, when it is asked for an attribute
        why = f"cannot be looked at ({said(error)})"
    if why is not None:
        raise TypeError(f"around={shown(around)} {why}: {_WAY_OUT}")


def _wrong(around: Any) -> str | None:
    if hasattr(around, "__enter__") and not isinstance(around, type):
        return "is a context manager itself, and each task needs one of its own"
    if not callable(around):
        return "cannot be called"
    if inspect.isgeneratorfunction(around):
        return "is a generator function without contextlib.contextmanager"
    inner = _innermost(around)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        return "is asynchronous, and tasks are not"
    try:
        inspect.signature(around).bind()
    except TypeError as error:
        return f"needs arguments ({said(error)})"
    except ValueError:  # a builtin that does not tell
        pass
    return None


def _innermost(fn: Any) -> Any:
    """Return what a chain of decorators and partials leads to."""
    while isinstance(fn, partial) or hasattr(fn, "__wrapped__"):
        fn = fn.func if isinstance(fn, partial) else fn.__wrapped__
    return fn
