"""The parts of one pool, put together. `InstrumentedPool` is the face; this is what it drives.

Worker loops, the watchdog, the scrape and the exit hook hold the engine's parts and never the face,
so that a pool nobody refers to any more can be noticed and drained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean
from typing import Any

from opentelemetry.trace import TracerProvider
from prometheus_client.registry import CollectorRegistry

from prodpool.admission.breaker import Breaker
from prodpool.dispatch import Dispatcher
from prodpool.errors import PoolClosedError
from prodpool.execution import Runner
from prodpool.exits import exit_desk
from prodpool.monitor import Monitor
from prodpool.settings import Settings
from prodpool.stopping import Stopper
from prodpool.task import Task
from prodpool.telemetry.ledger import Ledger
from prodpool.telemetry.logs import PoolLog
from prodpool.telemetry.prometheus import collector_of
from prodpool.telemetry.reading import PoolReading
from prodpool.telemetry.tracing import Tracing
from prodpool.telemetry.trouble import Trouble
from prodpool.telemetry.watchdog import watchdog
from prodpool.vocabulary import Reason, State
from prodpool.workers.base import Capabilities, Workers, prefetch_for
from prodpool.workers.beacon import Beacon
from prodpool.workers.handoff import HandoffWorkers
from prodpool.workers.pace import Pace
from prodpool.workers.supply import Factory, Supply
from prodpool.workers.threads import LeasedWorkers

try:
    VERSION = version("prodpool")
except PackageNotFoundError:  # run from a source tree that was never installed
    VERSION = "unknown"


# Seconds a task is taken to need while none has finished, and the least that `retry_after` says: whoever
# heeds it must not spin.
UNKNOWN = 1.0
LEAST_RETRY = 0.01
# More tasks than that handed over at once share a slot of the beacon, which then tells of the latest.
BEACON_SLOTS = 1024


class Engine:
    """One pool without its face."""

    def __init__(
        self,
        settings: Settings,
        backend: Any,
        abilities: Capabilities,
        *,
        factory: Factory | None = None,
        breaker: Any,
        registry: CollectorRegistry,
        tracer_provider: TracerProvider | None,
        logger: Any,
        now: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.abilities = abilities
        self.backend = backend
        self.factory = factory
        self.now = now
        self.trouble = Trouble(settings.name)
        self.log = PoolLog(settings.name, logger, self.trouble, now)
        self.tracing = Tracing(settings.name, tracer_provider, self.trouble)
        self.dispatcher = Dispatcher(
            workers=settings.max_workers,
            queue_capacity=settings.queue_capacity,
            ledger=Ledger(settings.buckets),
            now=now,
            prefetch=prefetch_for(settings.max_workers, abilities.max_workers, self._pace().ahead),
        )
        self.breaker = None if breaker is None else self._make_breaker(breaker)
        self.runner = Runner(
            pool=settings.name,
            dispatcher=self.dispatcher,
            breaker=self.breaker,
            tracing=self.tracing,
            log=self.log,
            trouble=self.trouble,
            slow_after=settings.slow_after,
            now=now,
        )
        self.workers: Workers = self._make_workers()
        self.monitor = Monitor(
            dispatcher=self.dispatcher,
            runner=self.runner,
            log=self.log,
            trouble=self.trouble,
            hung_after=settings.hung_after,
            now=now,
            start_loops=self.start_loops,
            look=self.workers.look,
            on_over=self._over,
        )
        self.stopper = Stopper(
            pool=settings.name,
            dispatcher=self.dispatcher,
            runner=self.runner,
            workers=self.workers,
            start_loops=self.start_loops,
            log=self.log,
            before_last_word=self._say_what_was_held_back,
            on_stopped=self._stopped,
        )
        # What broke the backend, once something has.
        self.broken: BaseException | None = None
        self._busy_told = 0.0  # guarded by the dispatcher's lock
        self.collector = collector_of(registry)
        with ExitStack() as undo:
            undo.callback(self.workers.close)
            # Refused where no thread can be started; the name is not taken then.
            watchdog().watch(self.monitor)
            undo.callback(watchdog().unwatch, self.monitor)
            self.collector.add(settings.name, self)
            undo.pop_all()
        # From here on the pool is in the world; nothing below may fail.
        exit_desk.enter(self)
        self.log.info(
            "pool.created",
            backend=abilities.kind,
            workers=settings.max_workers,
            queue_capacity=settings.queue_capacity,
        )

    def read(self) -> PoolReading:
        """Read the pool at one moment, under one lock."""
        self.workers.look()
        breaker = None if self.breaker is None else self.breaker.state
        errors = self.trouble.counts()
        settings, dispatcher, ledger = self.settings, self.dispatcher, self.dispatcher.ledger
        with dispatcher.lock:
            now = self.now()
            there = dispatcher.occupancy()
            first = dispatcher.queue.first()
            # A task may begin after ``now`` was read: it has run for no time then, not for less.
            starts = [worker.started for worker in dispatcher.roster.workers]
            runs = [max(0.0, now - began) for began in starts if began is not None]
            # And one may have ended before ``now``, and be booked with less than it was shown with. A
            # counter that goes down is a restart to Prometheus, which would count the whole of it again.
            self._busy_told = max(self._busy_told, ledger.busy_seconds + sum(runs))
            return PoolReading(
                pool=settings.name,
                backend=self.abilities.kind,
                version=VERSION,
                state=dispatcher.state.value,
                workers=dispatcher.workers(),
                queue_capacity=dispatcher.queue_capacity,
                queued=there.queued,
                running=there.running,
                submitted=ledger.submitted,
                completed=ledger.completed(),
                dropped=dict(ledger.dropped),
                dwell=ledger.dwell.read(),
                duration=ledger.duration.read(),
                admission_wait=ledger.admission_wait.read(),
                busy_seconds=self._busy_told,
                oldest_queued=0.0 if first is None else max(0.0, now - first.admitted_at),
                longest_running=max(runs, default=0.0),
                hung=sum(run >= settings.hung_after for run in runs),
                slow=ledger.slow,
                backend_rebuilds=self.workers.rebuilds(),
                telemetry_errors=errors,
                breaker=breaker,
            )

    def start_loops(self, count: int) -> None:
        """Start ``count`` loops, or as many as the backend has threads for."""
        for _ in range(count):
            try:
                self.workers.start()
            except RuntimeError:
                # None to be had; the loops that are there get to the waiting tasks in their turn.
                return

    def resize(self, workers: int) -> None:
        """Set how many tasks may run at once."""
        old = self.dispatcher.workers()
        self.start_loops(self.dispatcher.resize(workers, self.workers.fit(workers)))
        self.workers.resized()
        self.log.info("pool.resized", old=old, new=workers)

    def owner_gone(self) -> None:
        """Drain a pool that nobody refers to any more; its numbers stay for one more scrape.

        Called by a finalizer, which may run anywhere, also where any lock is held: it leaves notes.
        """
        self.collector.remove_after_scrape(self.settings.name, self)
        if self.dispatcher.state is not State.STOPPED:
            watchdog().soon(lambda: self.stopper.stop(math.inf, wait=False))

    def retry_after(self) -> float:
        """Guess the seconds until a slot is free: the mean task, shared by all workers.

        Tasks that run for longer than that already are taken to need as long again. While no task has
        finished, a mean of a second is as good as any.
        """
        now = self.now()
        starts = [worker.started for worker in list(self.dispatcher.roster.workers)]
        runs = [now - began for began in starts if began is not None]
        mean = self.monitor.mean_duration()
        guess = max(UNKNOWN if mean is None else mean, fmean(runs or [0.0]))
        return max(LEAST_RETRY, guess / self.dispatcher.workers())

    # What the exit desk asks.

    def close(self) -> None:
        """Begin to drain."""
        self.start_loops(self.dispatcher.close())

    def stop_at_exit(self, began: float, *, at_once: bool) -> None:
        """Stop within the drain deadline, counted from ``began``, in this thread; or break off at once."""
        self.stopper.stop_here(0.0 if at_once else self.settings.drain_deadline, began)

    def hung_threads(self) -> list[int]:
        """Return the idents of the threads of a stopped pool that do not end."""
        return [worker.ident for worker in list(self.dispatcher.roster.workers) if worker.ident is not None]

    def holds_up_exit(self) -> bool:
        """Tell whether those threads would be joined at exit, and should not be."""
        return self.abilities.holds_up_exit and self.settings.on_hang_exit == "exit"

    def forked(self) -> None:
        """Be dead in this process: every use meets a lock that says why."""
        lock: Any = ForkedLock(self.settings.name)
        self.dispatcher.lock = self.runner.lock = lock
        if self.breaker is not None:
            self.breaker.forked(lock)
        self.trouble.forked()
        self.stopper.forked()
        # A child that was forked by a task of this pool is no worker of it.
        self.dispatcher.roster.workers = set()

    # What the parts report.

    def _pace(self) -> Pace:
        wanted = self.settings.prefetch
        # A backend that nothing is known of may have workers to spare, which would run what is ahead.
        fixed = wanted is not None or self.abilities.prefetch == 0
        return Pace(self.abilities.prefetch if wanted is None else wanted, fixed=fixed)

    def _make_workers(self) -> Workers:
        settings, abilities = self.settings, self.abilities
        if abilities.leased:
            return LeasedWorkers(
                pool=settings.name,
                backend=self.backend,
                dispatcher=self.dispatcher,
                runner=self.runner,
                most=abilities.max_workers,
                linger=abilities.linger,
                shared=not settings.own_backend,
                now=self.now,
                on_lost=self._worker_lost,
            )
        return HandoffWorkers(
            pool=settings.name,
            supply=Supply(
                self.backend,
                self.factory,
                abilities.max_workers,
                self.now,
                processes=abilities.processes or (lambda _: []),
            ),
            own_backend=settings.own_backend,
            pace=self._pace(),
            abilities=abilities,
            log=self.log,
            trouble=self.trouble,
            context_vars=settings.context_vars,
            beacon=Beacon(BEACON_SLOTS) if abilities.same_host else None,
            dispatcher=self.dispatcher,
            runner=self.runner,
            now=self.now,
            on_broken=self._backend_broke,
        )

    def _make_breaker(self, spec: Any) -> Breaker:
        return Breaker(
            spec,
            pool=self.settings.name,
            monotonic=self.now,
            hung_after=self.settings.hung_after,
            on_change=self._breaker_changed,
            on_error=self.trouble.report,
        )

    def _breaker_changed(self, old: str, new: str, why: str) -> None:
        self.log.warning("breaker.changed", old=old, new=new, why=why)

    def _say_what_was_held_back(self) -> None:
        self.monitor.summarise_drops(final=True)
        self.log.flush_suppressed()

    def _stopped(self) -> None:
        exit_desk.leave(self)
        if self.dispatcher.roster.workers:
            # The watchdog goes on to speak of them.
            exit_desk.leave_behind(self)
        else:
            self._over()

    def _over(self) -> None:
        """Be done for good: the pool is stopped and its last worker is back."""
        watchdog().unwatch(self.monitor)
        exit_desk.come_back(self)
        self.workers.close()
        if self.breaker is not None:
            # The application's own circuit breaker outlives the pool.
            self.breaker.detach()

    def _worker_lost(self, task: Task | None, error: BaseException | None) -> None:
        """Settle what a lost worker held; close the pool if the backend will run nothing any more."""
        if self.dispatcher.state is State.STOPPED:
            return
        if error is not None and not isinstance(error, BrokenExecutor):
            # A loop of ours broke down. Another is started when a task needs one.
            self.trouble.report("internal", error)
            if task is not None:
                self.runner.lost(task, error)
            return
        self._backend_broke(error)
        if task is not None:
            self.runner.lost(task, error)

    def _backend_broke(self, error: BaseException | None) -> None:
        """Close the pool, since its backend will run nothing any more, and settle what is queued."""
        if self.dispatcher.state is State.STOPPED or self.broken is not None:
            return
        self.broken = error or BrokenExecutor("somebody has cancelled what the pool had submitted to it")
        self.log.error("pool.backend_broken", error=repr(error))
        self.dispatcher.close()
        # Nobody else may ever do it, and whoever looks shall see a pool that is stopped. Not from here: this
        # may be a thread that holds the backend's own lock.
        watchdog().soon(lambda: self.stopper.stop(math.inf, wait=False))
        for queued in self.dispatcher.drop_queued(Reason.SHUTDOWN):
            self.runner.lost(queued, error)


class ForkedLock:
    """Stands in for a pool's lock in a forked child; the real one may be held for ever there."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        raise PoolClosedError(
            pool=self._pool,
            detail="it was built before this process was forked, and its threads stayed in the parent: "
            "build the pool after the fork",
        )

    def __exit__(self, *exc_info: object) -> None:
        """Nothing to give back."""
