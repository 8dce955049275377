"""`InstrumentedPool`: an executor that wraps an executor."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, ParamSpec, TypeVar

import pybreaker
from opentelemetry.trace import TracerProvider
from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.concurrency.clock import Clock, SystemClock
from prodpool.config.around import Around
from prodpool.config.exception_classes import DEFAULT_PANICS, ExceptionClasses
from prodpool.config.settings import (
    DEFAULT_BUCKETS,
    OnHangExit,
    Overload,
    PoolSettings,
    TaskContext,
    check_collaborators,
    check_count,
    check_name,
    check_prefetch_fits,
    resolve_workers,
)
from prodpool.engine import Engine
from prodpool.engine_holder import EngineHolder
from prodpool.lifetime import StoppableExecutor
from prodpool.stats import PoolStats
from prodpool.submission.options import PoolView
from prodpool.submission.submitter import Submitter
from prodpool.submission.thread_pool_view import ThreadPoolView
from prodpool.text import shown
from prodpool.workers.backends import detect_backend
from prodpool.workers.base import Capabilities, SupportsSubmit, check_around_travels, shut_down
from prodpool.workers.handoff.rebuildable_backend import BackendFactory, is_factory

P = ParamSpec("P")
T = TypeVar("T")


class InstrumentedPool(StoppableExecutor):
    """Wraps an executor in a bounded queue, numbers, traces, logs, a breaker and a stop that ends.

    The pool owns the queue. It leases the threads of a ``ThreadPoolExecutor``, which then run long-lived
    loops that take tasks from that queue. A ``ProcessPoolExecutor`` or loky executor is the template for
    worker processes of the pool's own, and stays unstarted. Any other backend is sent one task at a time
    for each worker, and as many ahead as ``prefetch`` says. It is itself an `Executor`.

    Args:
        backend: A ``ThreadPoolExecutor``, a ``ProcessPoolExecutor``, an executor of loky or dask, whatever
            else has ``submit``; or what builds one of so many workers, and is called again if it breaks.
        name: What metrics, logs and spans call it, such as ``webhook-delivery``. The
            numbers of pools of one name in one registry are added up.
        max_workers: Tasks that run at once; None takes the backend's own number.
        queue_capacity: Tasks that may wait; None for twice the workers, 0 for none.
        overload: What `submit` does when nothing more may wait: "reject", "block" or "caller_runs".
        slow_after: Seconds of running from which a finished task is logged as slow.
        hung_after: Seconds of running from which a task counts as hung and its live stack is logged.
        drain_deadline: Seconds that `stop`, `shutdown`, the end of ``with`` and interpreter exit may take.
        breaker: A `BreakerPolicy`, a ``pybreaker.CircuitBreaker``, or None.
        registry: The Prometheus registry to export to; None for the default one.
        tracer_provider: None for the global one, once the application has set it.
        logger: A structlog or stdlib logger; None for structlog if it is configured, else ``prodpool``.
        buckets: Upper bounds of the histograms in seconds; None for 1 ms to 300 s.
        own_backend: Whether stopping the pool shuts the backend down. False for one that is shared:
            then busy loops also give it back every 50 ms so that others get a turn.
        on_hang_exit: "exit" leaves threads that never end behind when the interpreter exits; "wait" joins
            them, as the stdlib does.
        clock: Where the time is read; for tests.
        prefetch: Tasks that a backend other than threads is handed beyond those it runs, so that no worker
            has to wait for the next; None for as many as are done within 5 ms, and one at least (with dask
            two to each of its threads).
        context_vars: Names of context variables, each as ``"module:variable"``, that a backend other than
            threads sets for each task to what they were at submit; threads do with ``context="empty"``, and
            see them all otherwise. ``"structlog.contextvars:request_id"`` is what structlog has bound under
            that name, and ``"structlog.contextvars:*"`` is all of it.
        context: The contextvars that tasks in threads see: "copy" for those of the caller of submit, "empty"
            for none but OpenTelemetry's (the trace and its baggage) and those of ``context_vars``.
        around: Called for each task, in its worker and its context, for a context manager that the task runs
            in, such as ``app.app_context``. Its errors are counted and logged and never become the task's
            error (in the main thread, Ctrl-C goes through). It sees the task's own error and cannot change
            it.
        log_levels: Levels that replace the default level of single log events, such as
            ``{"task.slow": "info"}``.
        log_messages: Whether the log has the text of exceptions. False leaves their class and stack.
        panics: Exception classes that are bugs: a task that raises one counts as ``panic``. None for
            NameError, AttributeError, ImportError, NotImplementedError, SyntaxError, RecursionError and
            SystemError; ``()`` for none of them. Any other bare ``BaseException``, such as SystemExit, counts
            as ``panic`` unless it is expected, and CancelledError never does: it counts as ``cancelled``.
        expected: Exception classes that are part of the business, such as a ``CardDeclined``: a task that
            raises one counts as ``expected``, which is no failure. They are asked before ``panics``. The
            breaker does not ask them: a `BreakerPolicy` has ``exclude``.
        task_metrics: Names of tasks, at most 50, whose results and seconds of running are exported by name,
            and those of all others as "other"; None exports none. A task's name is its function's
            ``__qualname__``, or ``options(task=...)``.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it, its value and what would do.

    asyncio: ``async with`` stops it while the event loop goes on. ``loop.run_in_executor(pool, fn)`` works,
        with a view too; ``loop.set_default_executor`` takes nothing but a ``ThreadPoolExecutor``, which
        `as_thread_pool` returns.
    Source: concurrent.futures.Executor, docs.python.org/3/library/concurrent.futures.html
    """

    # Long, since it has an argument for everything that a pool can be told.
    def __init__(
        self,
        backend: SupportsSubmit | BackendFactory,
        *,
        name: str,
        max_workers: int | None = None,
        queue_capacity: int | None = None,
        overload: Overload = "reject",
        slow_after: float = 0.5,
        hung_after: float = 60.0,
        drain_deadline: float = 25.0,
        breaker: BreakerPolicy | pybreaker.CircuitBreaker | None = None,
        registry: CollectorRegistry | None = None,
        tracer_provider: TracerProvider | None = None,
        logger: Any = None,
        buckets: Sequence[float] | None = None,
        own_backend: bool = True,
        on_hang_exit: OnHangExit = "exit",
        clock: Clock | None = None,
        prefetch: int | None = None,
        context_vars: Sequence[str] = (),
        context: TaskContext = "copy",
        around: Around | None = None,
        log_levels: Mapping[str, str] | None = None,
        log_messages: bool = True,
        panics: ExceptionClasses | None = None,
        expected: ExceptionClasses = (),
        task_metrics: Sequence[str] | None = None,
    ) -> None:
        if isinstance(backend, InstrumentedPool | PoolView | ThreadPoolView):
            raise TypeError(f"backend={shown(backend)} is a pool already: pass the executor that it wraps")
        with ExitStack() as undo:
            undo.callback(self._discard)
            factory: BackendFactory | None = None
            if is_factory(backend, max_workers):
                factory = backend
                backend = factory(check_count("max_workers", max_workers, least=1))
                # If the constructor fails, the backend that the factory made is shut down.
                undo.callback(shut_down, backend)
            abilities = detect_backend(backend, own=own_backend is True)
            check_name(name)  # of several wrong arguments the first is reported
            workers = resolve_workers(max_workers, abilities.max_workers)
            settings = PoolSettings(
                name=name,
                max_workers=workers,
                queue_capacity=2 * workers if queue_capacity is None else queue_capacity,
                overload=overload,
                slow_after=slow_after,
                hung_after=hung_after,
                drain_deadline=drain_deadline,
                buckets=DEFAULT_BUCKETS if buckets is None else buckets,
                own_backend=own_backend,
                on_hang_exit=on_hang_exit,
                prefetch=None if abilities.leased else prefetch,  # refused below, whatever it is
                context_vars=context_vars,
                context=context,
                around=around,
                log_levels=log_levels,
                log_messages=log_messages,
                panics=DEFAULT_PANICS if panics is None else panics,
                expected=expected,
                task_metrics=task_metrics,
            )
            check_around_travels(around, abilities)
            check_prefetch_fits(prefetch, leased=abilities.leased)
            check_collaborators(
                registry=registry,
                tracer_provider=tracer_provider,
                logger=logger,
                levels=(settings.log_levels or {}).values(),
                clock=clock,
            )
            make = partial(
                Engine,
                settings,
                factory=factory,
                breaker=breaker,
                registry=REGISTRY if registry is None else registry,
                tracer_provider=tracer_provider,
                logger=logger,
                now=(SystemClock() if clock is None else clock).monotonic,
            )
            again = (
                None
                if factory is None
                else partial(_build_backend, factory, workers, own=settings.own_backend)
            )
            self._holder = EngineHolder(make, backend, abilities, again)
            self._holder.open()
            self._submitter = Submitter(self._holder)
            self._finalizer = weakref.finalize(self, self._holder.on_pool_collected)
            self._finalizer.atexit = False
            undo.pop_all()

    @property
    def _engine(self) -> Engine:
        """The engine of this process."""
        return self._holder.current()

    @property
    def name(self) -> str:
        """The pool's name in metrics, logs and spans."""
        return self._holder.engine.settings.name

    @property
    def capacity(self) -> int:
        """The number of tasks that the pool holds at most, those that run and those that wait.

        For servers that are to refuse what an executor could not take, such as
        ``grpc.server(pool, maximum_concurrent_rpcs=pool.capacity)``. `resize` changes it.
        """
        dispatcher = self._engine.dispatcher
        return dispatcher.workers() + dispatcher.queue_capacity

    @property
    def _max_workers(self) -> int:
        # What code asks of an executor that it takes for a ThreadPoolExecutor, as dask's scheduler does.
        return self._engine.dispatcher.workers()

    def as_thread_pool(self) -> ThreadPoolExecutor:
        """Return this pool as a ThreadPoolExecutor, for code that accepts no other executor.

        Such as ``loop.set_default_executor``, and so ``asyncio.to_thread``. What is submitted to it is a task
        of this pool; to shut it down, as a loop does with its default executor, stops this pool.
        """
        return ThreadPoolView(self, self._max_workers)

    def pause(self) -> None:
        """Start no more tasks until `resume`; running ones go on, and the queue fills up to its bound."""
        self._engine.pause()

    def resume(self) -> None:
        """Start tasks again."""
        engine = self._engine
        engine.starter.start(engine.dispatcher.resume())

    def resize(self, max_workers: int) -> None:
        """Set how many tasks may run at once. Running tasks are never interrupted by it.

        Raises:
            ValueError: The backend has fewer workers than that, and is not given as a factory.
        """
        check_count("max_workers", max_workers, least=1)
        self._engine.resize(max_workers)

    def stats(self) -> PoolStats:
        """Return the pool's numbers at this moment, read under one lock."""
        return PoolStats.of(self._engine.reader.snapshot())

    def dump(self) -> str:
        """Return what every worker does right now, as text for a person: task, for how long, and its stack.

        A worker process of this host is asked for its stack by a signal and given half a second; where none
        can be had (dask, other executors outside of this process, a stopped process) the text says why.
        Arguments and local variables are never shown.
        """
        return self._engine.watchdog.dump()

    def close_metrics(self) -> None:
        """Export this pool no more. Until then a stopped pool's metrics stay readable."""
        self._holder.close_metrics()

    def __repr__(self) -> str:
        if self._holder.inherited():
            return f"<{type(self).__name__} {self.name!r} of the parent process, not used in this one>"
        dispatcher = self._holder.engine.dispatcher
        return (
            f"<{type(self).__name__} {self.name!r} {dispatcher.state.value}: "
            f"{min(dispatcher.worker_set.running, dispatcher.workers())}/{dispatcher.workers()} running, "
            f"{dispatcher.queue.length}/{dispatcher.queue_capacity} queued>"
        )

    def _discard(self) -> None:
        """Leave nothing of a pool whose construction was broken off."""
        holder: EngineHolder | None = getattr(self, "_holder", None)
        if holder is not None:
            holder.engine.discard()


def _build_backend(factory: BackendFactory, workers: int, *, own: bool) -> tuple[Any, Capabilities]:
    backend = factory(workers)
    return backend, detect_backend(backend, own=own)
