"""An executor without threads, for tests."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import ParamSpec, TypeVar

from prodpool.config.settings import check_count

P = ParamSpec("P")
T = TypeVar("T")


class InlineExecutor(Executor):
    """Makes each call at once, in the thread that submits it: for tests.

    By itself it stands in for any executor. As the backend of a `prodpool.InstrumentedPool` it has the
    pool run a task before ``submit`` returns, with all that a pool does besides: metrics, log lines, spans.
    A task that is submitted by another one while all ``max_workers`` are taken waits in the pool's queue, as
    over threads, and is run when that one ends, or when that one waits for its result.

    A task sees the thread of its submitter: its thread-local variables, and its event loop, on which
    ``asyncio.run`` is refused. It has a copy of the context variables.

    Args:
        max_workers: Tasks that a pool over it runs at once, one inside the other or in several threads. By
            itself it makes any number of calls.

    Threads: safe from any thread.
    Source: Executor, docs.python.org/3/library/concurrent.futures.html
    """

    def __init__(self, max_workers: int = 1) -> None:
        self.max_workers = check_count("max_workers", max_workers, least=1)
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call ``fn(*args, **kwargs)`` and return a future that is done.

        Raises:
            RuntimeError: `shutdown` was called.
            KeyboardInterrupt: It was raised in the call. Any other exception is in the future alone.
        """
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        try:
            future.set_result(copy_context().run(fn, *args, **kwargs))
        except KeyboardInterrupt:  # meant for this thread
            raise
        except BaseException as error:  # noqa: BLE001  # as in the worker of any executor
            future.set_exception(error)
        try:
            return future
        finally:
            del future  # this frame may be in the traceback of the error that it holds

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take no more calls; there is none to wait for or to cancel."""
        self._closed = True
