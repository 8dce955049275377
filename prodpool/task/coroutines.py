"""Refusing `async def` functions: a worker that calls one gets a coroutine, and nothing runs that."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import CoroutineType, FunctionType, MethodType
from typing import Any

from prodpool.task.task import callable_name

# Looked at as bits, since `inspect.iscoroutinefunction` takes half a microsecond.
ASYNC_FLAGS = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


def is_async(fn: Callable[..., Any]) -> bool:
    """Tell whether ``fn`` is an ``async def`` function, or a method or a partial of one."""
    function: Any = fn
    while type(function) is partial:
        function = function.func
    if type(function) is MethodType:
        function = function.__func__
    return type(function) is FunctionType and bool(function.__code__.co_flags & ASYNC_FLAGS)


def async_refusal(fn: Callable[..., Any]) -> TypeError:
    """Return the error for a function that is not to be submitted."""
    return TypeError(f"{callable_name(fn)} is an async def function, {_WAY_OUT}")


def coroutine_refusal(fn: Callable[..., Any], value: CoroutineType[Any, Any, Any]) -> TypeError:
    """Return the error for a task whose result is a coroutine, and close that if it has not begun."""
    if inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
        with suppress(ValueError):  # a loop that it was handed to begins it just now
            value.close()
    return TypeError(f"{callable_name(fn)} returned a coroutine, {_WAY_OUT}")


_WAY_OUT = (
    "which a worker would never run: await it on the event loop, or submit a plain function that runs it "
    "with asyncio.run"
)
