"""The parts of one pool, put together. `InstrumentedPool` is the public facade of it.

Worker loops, the watchdog, the scrape and the exit hook hold the engine's parts and never the facade,
so that a pool without a reference to it can be noticed and drained.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any

from opentelemetry.trace import TracerProvider
from prometheus_client.registry import CollectorRegistry

from prodpool.admission.breaker.deferred import make_breaker
from prodpool.admission.permits import PermitSource
from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.call_thread import CallThread
from prodpool.config.settings import PoolSettings
from prodpool.execution.pool_reader import PoolReader
from prodpool.execution.runner import Runner
from prodpool.execution.settlement import Settlement
from prodpool.execution.watchdog import PoolWatchdog
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.shutdown.at_exit import exit_registry
from prodpool.shutdown.closing import Closing
from prodpool.shutdown.forked import ForkedLock
from prodpool.shutdown.phases import StopParts
from prodpool.shutdown.pool_at_exit import PoolAtExit
from prodpool.shutdown.report import StopReport
from prodpool.shutdown.stopper import Stopper
from prodpool.task.outcomes import State
from prodpool.telemetry.counters import PoolCounters
from prodpool.telemetry.exporters.pool_metrics import PoolMetrics
from prodpool.telemetry.knobs import knobs_of
from prodpool.telemetry.log_events import PoolLog, TaskLog
from prodpool.telemetry.sinks import TelemetrySinks
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.telemetry.tracing import Tracing
from prodpool.workers.base import Capabilities, Workers
from prodpool.workers.build import WorkersBuilder, first_prefetch
from prodpool.workers.handoff.rebuildable_backend import BackendFactory
from prodpool.workers.loop_starter import LoopStarter

# Seconds that a stop waits for the application's circuit breaker to be let go.
BRIEFLY = 0.5


class Engine:
    """The parts of one pool, and what connects them."""

    # Long, since it does nothing but put the parts together.
    def __init__(
        self,
        settings: PoolSettings,
        backend: Any,
        abilities: Capabilities,
        *,
        factory: BackendFactory | None = None,
        breaker: Any,
        registry: CollectorRegistry,
        tracer_provider: TracerProvider | None,
        logger: Any,
        now: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.abilities = abilities
        self.backend = backend
        self.now = now
        self.telemetry_errors = TelemetryErrors(settings.name)
        self.log = PoolLog(settings, logger, self.telemetry_errors, now)
        self.tracing = Tracing(settings.name, tracer_provider, self.telemetry_errors)
        self.call_thread = CallThread(
            f"prodpool-callbacks-{settings.name}", partial(self.telemetry_errors.report, "internal")
        )
        self.starter = LoopStarter(self.begin, self.call_thread, may_hang=not abilities.leased)
        self.dispatcher = Dispatcher(
            workers=settings.max_workers,
            queue_capacity=settings.queue_capacity,
            counters=PoolCounters(settings.buckets, settings.task_metrics),
            now=now,
            prefetch=first_prefetch(settings, abilities),
        )
        self.breaker = make_breaker(
            breaker,
            pool=settings.name,
            monotonic=now,
            hung_after=settings.hung_after,
            on_change=lambda old, new, why: self.log.warning("breaker.changed", old=old, new=new, why=why),
            on_error=self.telemetry_errors.report,
            on_lost=partial(self.telemetry_errors.overflow, "breaker"),
        )
        self.sinks = TelemetrySinks(
            self.tracing.thread, self.log.thread, self.telemetry_errors.reports, breaker=self.breaker
        )
        self.permit_sources: tuple[PermitSource, ...] = () if self.breaker is None else (self.breaker,)
        self.settlement = Settlement(
            pool=settings.name,
            dispatcher=self.dispatcher,
            observers=(self.tracing, TaskLog(self.log, settings.slow_after)),
            exemplar=self.tracing.exemplar,
            telemetry_errors=self.telemetry_errors,
            call_thread=self.call_thread,
            slow_after=settings.slow_after,
            now=now,
        )
        self.runner = Runner(
            pool=settings.name,
            dispatcher=self.dispatcher,
            settlement=self.settlement,
            permits_may_hang=any(source.shared for source in self.permit_sources),
            tracing=self.tracing,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            slow_after=settings.slow_after,
            now=now,
        )
        self.closing = Closing(
            settings.name,
            dispatcher=self.dispatcher,
            settlement=self.settlement,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            stop_soon=self._stop_soon,
        )
        self.workers: Workers = WorkersBuilder(
            settings=settings,
            backend=backend,
            abilities=abilities,
            factory=factory,
            dispatcher=self.dispatcher,
            runner=self.runner,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            now=now,
            start_loops=self.starter.start,
            on_lost=self.closing.worker_lost,
            on_broken=self.closing.backend_broke,
        ).build()
        self.starter.workers = self.workers
        self.reader = PoolReader(
            settings,
            self.dispatcher,
            backend=abilities.kind,
            workers=self.workers,
            breaker=lambda: None if self.breaker is None else self.breaker.state,
            errors=self.telemetry_errors.counts,
            knobs=knobs_of(settings, breaker),
            now=now,
        )
        self.watchdog = PoolWatchdog(
            pool=settings.name,
            dispatcher=self.dispatcher,
            settlement=self.settlement,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            hung_after=settings.hung_after,
            now=now,
            start_loops=self.starter.start_missing,
            refresh_workers=self.workers.refresh,
            retry_failed=self._retry_failed,
            repair_workers=self.workers.repair,
            call_thread=self.call_thread,
            on_finished=self._release,
        )
        self.stopper = Stopper(
            StopParts(
                pool=settings.name,
                dispatcher=self.dispatcher,
                settlement=self.settlement,
                workers=self.workers,
                start_loops=self.starter.start,
                log=self.log,
                call_thread=self.call_thread,
                telemetry_errors=self.telemetry_errors,
                flush_logs=self.watchdog.flush_logs,
                flush_telemetry=self.sinks.close,
                on_stopped=self._stopped,
            )
        )
        self.at_exit = PoolAtExit(
            settings,
            self.dispatcher,
            self.closing,
            self.stopper,
            start_loops=self.starter.start,
            shut_down_backend=self.workers.shutdown,
            holds_up_exit=abilities.holds_up_exit,
            is_used=lambda: self.used,
        )
        # Whether the pool was used: only then does it have threads. Set under _beginning, last of all.
        self.used = False
        # Whether it may have begun: an interrupt may come between.
        self._watched = False
        self._beginning = threading.RLock()
        self.metrics = PoolMetrics(
            settings.name, self.reader, registry, partial(self.telemetry_errors.report, "metrics")
        )

    def open(self) -> None:
        """Export the pool. It has no thread before its first use, so that a process may fork until then.

        Raises:
            ValueError: In prometheus_client's multiprocess mode, its folder cannot be written to.
        """
        try:
            self.metrics.open()
            exit_registry.add(self.at_exit)
        except BaseException:
            self.discard()
            raise

    def begin(self) -> None:
        """Start what watches over the pool, at its first use, and log that.

        An interrupt in here leaves the rest to the next use.

        Raises:
            RuntimeError: No thread can be started.
        """
        if self.used:
            return
        with self._beginning:
            if self.used:
                return
            self._watched = True
            background_thread().add_periodic(self.watchdog)
            self.metrics.begin()
            self.sinks.open()
            self.tracing.open()
            self.used = True
        # Not in the context of the request that comes to use it first.
        Context().run(self.log.created, self.abilities.kind, self.settings)

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool = False) -> StopReport:
        """Stop the pool; see `Stopper.stop`."""
        # Also a pool that was never used logs its end, unless the process has no thread for that any more.
        with suppress(RuntimeError):
            self.begin()
        return self.stopper.stop(deadline, wait=wait, cancel_queued=cancel_queued)

    def discard(self) -> None:
        """Undo `open` for a pool whose construction failed."""
        background_thread().remove_periodic(self.watchdog)
        self.metrics.close()
        exit_registry.remove(self.at_exit)
        self.workers.close()
        self.sinks.discard()
        self.dispatcher.retire_workers()
        self._detach_breaker()

    def close_metrics(self) -> None:
        """Export the pool no more."""
        self.metrics.close()

    def pause(self) -> None:
        """Start no more tasks, and withdraw soon the tasks that worker processes were sent ahead."""
        self.begin()
        self.dispatcher.pause()
        if self.dispatcher.worker_set.ahead:
            # By a thread in which no signal handler runs, which might come between the steps of it.
            self.call_thread.call_soon(self._requeue_all_ahead)

    def _requeue_all_ahead(self) -> None:
        self.starter.start(self.dispatcher.requeue_all_ahead())
        self.settlement.drop_requeued()

    def resize(self, workers: int) -> None:
        """Set how many tasks may run at once."""
        self.begin()
        with self.dispatcher.lock:
            old = self.dispatcher.workers()
        self.starter.start(self.dispatcher.resize(workers, self.workers.prepare_resize(workers)))
        self.workers.after_resize()
        self.log.info("pool.resized", old=old, new=workers)

    def on_pool_collected(self) -> None:
        """Drain a pool to which no reference is left; its numbers stay with those of its name.

        Called by a finalizer, which may run anywhere, also where any lock is held: it posts a call at most.
        """
        if not self._watched:
            # There is nothing to stop, and all its numbers are 0. Its backend may have threads of its own.
            self.metrics.pool_collected(used=False)
            exit_registry.remove(self.at_exit)
            if not self.abilities.leased and self.abilities.template is None:
                self.call_thread.call_soon(self.workers.shutdown)
            return
        self.metrics.pool_collected(used=True)
        if self.dispatcher.state is not State.STOPPED:
            self._stop_soon()

    def _stop_soon(self) -> None:
        background_thread().call_soon(lambda: self.stopper.stop(math.inf, wait=False))

    def retry_after(self) -> float:
        """Estimate the seconds until a slot is free."""
        return self.reader.retry_after(self.watchdog.mean_duration())

    def forked(self) -> None:
        """Disable this engine in a forked child: every use raises."""
        lock: Any = ForkedLock(self.settings.name)
        self.dispatcher.lock = self.runner.lock = lock
        if self.breaker is not None:
            self.breaker.forked(lock)
        self.telemetry_errors.forked()
        self.log.forked()
        self.stopper.forked()
        # A child that was forked by a task of this pool is no worker of it.
        self.dispatcher.worker_set.workers = set()

    # What the parts report.

    def _retry_failed(self) -> None:
        """Try again what was asked for and failed."""
        self.stopper.retry()
        self.call_thread.ensure_thread()
        self.sinks.ensure_threads()

    def _stopped(self) -> None:
        exit_registry.remove(self.at_exit)
        if self.dispatcher.worker_set.workers:
            # The watchdog goes on to speak of them.
            exit_registry.add_hung(self.at_exit)
        else:
            self._release()
            self.call_thread.close(BRIEFLY)
        self.metrics.stopped()

    def _release(self) -> None:
        """Release the pool's resources, once it is stopped and its last worker is back."""
        background_thread().remove_periodic(self.watchdog)
        exit_registry.remove_hung(self.at_exit)
        self.workers.close()
        self.metrics.release(self.reader.last_source())
        self._detach_breaker()

    def _detach_breaker(self) -> None:
        if self.breaker is not None:
            # The application's own circuit breaker outlives the pool. Another thread detaches it, since
            # pybreaker holds its lock while it runs a function of the application's.
            self.call_thread.call_soon(self.breaker.detach)
