"""What travels of OpenTelemetry's context to another process: what the global propagator writes and reads."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_FALLBACK = TraceContextTextMapPropagator()


@functools.cache
def _global() -> tuple[ModuleType | None, Exception | None]:
    # Imported here: it fails where OTEL_PROPAGATORS names a propagator that is not installed.
    try:
        from opentelemetry import propagate  # noqa: PLC0415
    except Exception as error:  # noqa: BLE001  # what an installed propagator raises when it is loaded
        return None, error
    return propagate, None


def load_error() -> Exception | None:
    """Return why the application's propagator cannot be had, so that W3C trace context travels instead."""
    return _global()[1]


def inject(context: Context) -> dict[str, str]:
    """Return what the propagator writes of ``context``.

    Raises:
        TypeError: It wrote something that is not text.
        Exception: What the propagator raises.
    """
    carrier: dict[Any, Any] = {}
    (_global()[0] or _FALLBACK).inject(carrier, context)
    # It is pickled with the call: what does not pickle must not be the task's error.
    if not all(type(name) is type(value) is str for name, value in carrier.items()):
        raise TypeError("the propagator wrote something that is not a string")
    return carrier


def extract(carrier: Mapping[str, str]) -> Context:
    """Return the context that was written into ``carrier``.

    Raises:
        Exception: What the propagator raises.
    """
    context: Context = (_global()[0] or _FALLBACK).extract(carrier)
    return context
