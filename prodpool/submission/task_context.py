"""The context that a task runs in: a copy of the one that it was submitted in, or one without most of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from functools import partial

from opentelemetry import context as otel_context

from prodpool.config.settings import PoolSettings
from prodpool.workers.in_worker.context_vars import assign_vars, read_vars


def context_maker(settings: PoolSettings) -> Callable[[], Context]:
    """Return what makes the contexts of a pool's tasks."""
    return copy_context if settings.context == "copy" else partial(empty_context, settings.context_vars)


def empty_context(names: Sequence[str]) -> Context:
    """Return a context that has the current trace and baggage, the variables called so, and nothing else."""
    context = Context()
    if current := otel_context.get_current():
        context.run(otel_context.attach, current)
    if names:
        context.run(assign_vars, read_vars(names, copy_context()))
    return context
