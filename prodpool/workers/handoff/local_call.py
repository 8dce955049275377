"""A call for a backend of unknown kind, which may run it in this process or carry it to another."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from contextvars import Context
from functools import partial
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace

from prodpool.execution.current_task import thread_state
from prodpool.task.task import Task
from prodpool.workers.handoff.backend_worker import BackendWorker
from prodpool.workers.in_worker.call import CallHeader, CallResult, run_here, run_plain


class LocalCall:
    """Runs in a thread of this process as in one of the pool's: in the task's own context, with its span.

    It is this very object that a thread calls. Where a backend pickles it, what arrives is the call that
    worker processes make.

    Args:
        worker: The worker that has the task.
        task: The task.
        header: What a worker process has to know.
        call: The function, its arguments and the context variables that travel.
    """

    def __init__(self, worker: BackendWorker, task: Task, header: CallHeader, call: tuple[Any, ...]) -> None:
        self._worker = worker
        self._task = task
        self._header = header
        self._call = call

    def __reduce__(self) -> tuple[type[partial[CallResult]], tuple[Any, ...]]:
        return partial, (run_plain, self._header, *self._call)

    def __call__(self) -> CallResult:
        """Make the call and return its outcome."""
        worker, task = self._worker, self._task
        ident = threading.get_ident()
        # The thread may be running a task of another pool, or of this one.
        outer, outer_task = thread_state.worker, thread_state.local_task
        worker.replaced, worker.ident = outer, ident
        thread_state.worker, thread_state.local_task = worker, task
        try:
            return self._run_in(task.context)
        finally:
            thread_state.worker, thread_state.local_task = outer, outer_task
            # A backend may have given this call up, and then the worker has the next one in another thread.
            if worker.ident == ident:
                worker.replaced = worker.ident = None

    def _run_in(self, context: Context) -> CallResult:
        began: list[bool] = []
        try:
            return context.run(self._run, began)
        except RuntimeError:
            if began:
                raise
        # Another run of the task, which was given up, is still inside of it.
        return context.copy().run(self._run, began)

    def _run(self, began: list[bool]) -> CallResult:
        began.append(True)
        with ExitStack() as undo:
            if (span := self._task.span) is not None:
                token = otel_context.attach(trace.set_span_in_context(span))
                undo.callback(otel_context.detach, token)
            fn, args, kwargs, _ = self._call
            return run_here(self._header._replace(trace_context=None), fn, args, kwargs, {})
