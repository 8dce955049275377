"""The parts of one pool, put together. `InstrumentedPool` is the face; this is what it drives.

Worker loops, the watchdog, the scrape and the exit hook hold the engine's parts and never the face,
so that a pool nobody refers to any more can be noticed and drained.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from functools import partial
from statistics import fmean
from typing import Any
from weakref import WeakSet

from opentelemetry.trace import TracerProvider
from prometheus_client.registry import CollectorRegistry

from prodpool.admission.breaker import Breaker
from prodpool.aside import Aside
from prodpool.dispatch import Dispatcher
from prodpool.errors import PoolBrokenError, PoolClosedError
from prodpool.execution import Runner
from prodpool.exits import exit_desk
from prodpool.monitor import Monitor
from prodpool.settings import Settings
from prodpool.stopping import Stopper
from prodpool.task import Task
from prodpool.telemetry.ledger import Ledger
from prodpool.telemetry.logs import PoolLog
from prodpool.telemetry.prometheus import collector_of
from prodpool.telemetry.reading import PoolReading, Remains, tally
from prodpool.telemetry.sink_thread import SinkThread
from prodpool.telemetry.tracing import Tracing
from prodpool.telemetry.trouble import Trouble
from prodpool.telemetry.watchdog import watchdog
from prodpool.text import shown
from prodpool.version import __version__
from prodpool.vocabulary import Reason, State
from prodpool.workers.base import Capabilities, Workers, prefetch_for
from prodpool.workers.handoff import HandoffWorkers
from prodpool.workers.pace import Pace
from prodpool.workers.processes.workers import ProcessWorkers
from prodpool.workers.supply import BackendFactory, Supply
from prodpool.workers.threads import LeasedWorkers

EXITING = (
    "the interpreter is exiting, since its main thread has ended, and no new task can be run: have the main "
    "thread wait for the threads that submit, for instance by joining them"
)
# Seconds a task is taken to need while none has finished, and the least that `retry_after` says: whoever
# heeds it must not spin.
UNKNOWN = 1.0
LEAST_RETRY = 0.01
# Seconds that a stop waits for the application's circuit breaker to be let go.
BRIEFLY = 0.5


class Engine:
    """One pool without its face."""

    def __init__(
        self,
        settings: Settings,
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
        self.factory = factory
        self.now = now
        self.trouble = Trouble(settings.name)
        self.log = PoolLog(settings.name, logger, self.trouble, now)
        self.tracing = Tracing(settings.name, tracer_provider, self.trouble)
        self.aside = Aside(f"prodpool-callbacks-{settings.name}", partial(self.trouble.report, "internal"))
        self.dispatcher = Dispatcher(
            workers=settings.max_workers,
            queue_capacity=settings.queue_capacity,
            ledger=Ledger(settings.buckets),
            now=now,
            prefetch=self._places_ahead(),
        )
        self.breaker = None if breaker is None else self._make_breaker(breaker)
        self.runner = Runner(
            pool=settings.name,
            dispatcher=self.dispatcher,
            breaker=self.breaker,
            tracing=self.tracing,
            log=self.log,
            trouble=self.trouble,
            aside=self.aside,
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
            start_loops=self._start_missing,
            look=self.workers.look,
            look_after=self._look_after,
            repair_workers=self.workers.repair,
            aside=self.aside,
            on_over=self._over,
        )
        self.stopper = Stopper(
            pool=settings.name,
            dispatcher=self.dispatcher,
            runner=self.runner,
            workers=self.workers,
            start_loops=self.start_loops,
            log=self.log,
            aside=self.aside,
            trouble=self.trouble,
            before_last_word=self._say_what_was_held_back,
            flush_telemetry=self._finish_telemetry,
            on_stopped=self._stopped,
        )
        # What broke the backend, once something has.
        self.broken: BaseException | None = None
        self._starting = False
        # Whether it was the interpreter's exit that closed the pool.
        self._exiting = False
        self._busy_told = 0.0  # guarded by the dispatcher's lock
        self.collector = collector_of(registry)

    def open(self) -> None:
        """Take the pool's place in the world: with the watchdog, the collector, the exit and the log.

        Raises:
            RuntimeError: No thread can be started.
            ValueError: A pool of that name is alive.
        """
        try:
            watchdog().watch(self.monitor)
            self._export = self.collector.add(self.settings.name, self)
            _engines.add(self)
            exit_desk.enter(self)
            self.log.thread.open()
            self.tracing.open()
            self.log.info(
                "pool.created",
                backend=self.abilities.kind,
                workers=self.settings.max_workers,
                queue_capacity=self.settings.queue_capacity,
            )
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Let go of everything, for a pool that nobody will have, because its construction was broken off."""
        watchdog().unwatch(self.monitor)
        self.collector.withdraw(self.settings.name, self)
        exit_desk.leave(self)
        self.workers.close()
        for sink in self._sinks():
            sink.finish(0.0)
        self.dispatcher.finish()

    def read(self) -> PoolReading:
        """Read the pool at one moment, under one lock."""
        self.workers.look()
        breaker = None if self.breaker is None else self.breaker.state
        errors = self.trouble.counts()
        with self.dispatcher.lock:
            facts, numbers = self._facts(), tally(self.dispatcher.ledger)
        return PoolReading(**facts, **numbers, breaker=breaker, telemetry_errors=errors)

    def close_metrics(self) -> None:
        """Export the pool no more."""
        self.collector.remove(self.settings.name, self._export)

    def start_loops(self, count: int) -> None:
        """Start ``count`` loops, or as many as the backend has threads for."""
        for _ in range(count):
            try:
                self.workers.start()
            except RuntimeError:
                # None to be had; the loops that are there get to the waiting tasks in their turn.
                return

    def pause(self) -> None:
        """Start no more tasks, and take back soon what worker processes were sent ahead."""
        self.dispatcher.pause()
        if self.dispatcher.roster.ahead:
            # By a thread in which no signal handler runs, which might come between the steps of it.
            self.aside.say(self._take_all_back)

    def _take_all_back(self) -> None:
        self.start_loops(self.dispatcher.take_all_back())
        self.runner.drop_what_came_back()

    def resize(self, workers: int) -> None:
        """Set how many tasks may run at once."""
        # The lock comes first: in a forked child it refuses, before anything is waited for or built.
        with self.dispatcher.lock:
            old = self.dispatcher.workers()
        self.start_loops(self.dispatcher.resize(workers, self.workers.fit(workers)))
        self.workers.resized()
        self.log.info("pool.resized", old=old, new=workers)

    def owner_gone(self) -> None:
        """Drain a pool that nobody refers to any more; its numbers stay for one more scrape.

        Called by a finalizer, which may run anywhere, also where any lock is held: it leaves notes.
        """
        self._export.last = True
        if self.dispatcher.state is not State.STOPPED:
            watchdog().soon(lambda: self.stopper.stop(math.inf, wait=False))

    def flush_telemetry(self, timeout: float) -> bool:
        """Wait until log and tracer were handed all there is by now; False after ``timeout`` seconds."""
        ends = time.monotonic() + timeout
        return all(sink.flush(max(0.0, ends - time.monotonic())) for sink in self._sinks())

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

    def refusal(self, otherwise: str | None = None) -> PoolClosedError:
        """Return the error that says why no task is taken; ``otherwise`` if nothing is known but that."""
        name = self.settings.name
        if self.broken is not None:
            return PoolBrokenError(pool=name, cause=self.broken)
        # The exit desk closes all pools first. A pool that came later finds that its backend is closed.
        exiting = self._exiting or not threading.main_thread().is_alive()
        detail = EXITING if exiting else otherwise
        return PoolClosedError(pool=name) if detail is None else PoolClosedError(pool=name, detail=detail)

    # What the exit desk asks.

    def close(self) -> None:
        """Begin to drain."""
        self._exiting = True
        self.start_loops(self.dispatcher.close())

    def drain_deadline(self) -> float:
        """Return the seconds that the pool may take to drain."""
        return self.settings.drain_deadline

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

    def _start_missing(self, count: int) -> None:
        """Start the loops for which tasks wait in vain; called by the watchdog, which must not be held up."""
        if self.abilities.leased:
            self.start_loops(count)
        elif count and not self._starting:
            # A task may be handed over at once, and the application's own pickling or `submit` hang.
            self._starting = True
            self.aside.say(partial(self._start_aside, count))

    def _start_aside(self, count: int) -> None:
        try:
            self.start_loops(count)
        finally:
            self._starting = False

    def _sinks(self) -> tuple[SinkThread, ...]:
        # The reports last: they are about the other two.
        return self.tracing.thread, self.log.thread, self.trouble.reports

    def _finish_telemetry(self, patience: float, longest: float) -> None:
        """Have log and tracer take what waits; one call may last ``patience`` seconds, all ``longest``."""
        began = time.monotonic()
        for sink in self._sinks():
            passed = time.monotonic() - began
            sink.finish(max(0.05, patience - passed), max(0.0, longest - passed))

    def _facts(self) -> dict[str, Any]:
        """Return what a reading says beside the ledger's numbers. The dispatcher's lock is held."""
        settings, dispatcher = self.settings, self.dispatcher
        now = self.now()
        there = dispatcher.occupancy()
        first = dispatcher.queue.first()
        workers = list(dispatcher.roster.workers)
        # A task may begin after ``now`` was read: it has run for no time then, not for less.
        starts = [worker.started for worker in workers]
        runs = [max(0.0, now - began) for began in starts if began is not None]
        # And one may have ended before ``now``, and be booked with less than it was shown with. A
        # counter that goes down is a restart to Prometheus, which would count the whole of it again.
        self._busy_told = max(self._busy_told, dispatcher.ledger.busy_seconds + sum(runs))
        # What a worker is busy with, callbacks included, may hang.
        since = [worker.busy_since() for worker in workers]
        busy = [max(0.0, now - began) for began in since if began is not None]
        return {
            "pool": settings.name,
            "backend": self.abilities.kind,
            "version": __version__,
            "state": dispatcher.state.value,
            "workers": dispatcher.workers(),
            "queue_capacity": dispatcher.queue_capacity,
            "queued": there.queued,
            "running": there.running,
            "busy_seconds": self._busy_told,
            "oldest_queued": 0.0 if first is None else max(0.0, now - first.admitted_at),
            "longest_running": max(busy, default=0.0),
            "hung": sum(run >= settings.hung_after for run in busy),
            "backend_rebuilds": self.workers.rebuilds(),
        }

    def _look_after(self) -> None:
        """Have what was asked for, and came to nothing, tried again."""
        self.stopper.retry()
        self.aside.look()
        for sink in self._sinks():
            sink.look()

    def _places_ahead(self) -> int:
        """Return how many tasks the backend takes at first beyond those that it runs."""
        settings, abilities = self.settings, self.abilities
        if abilities.recipe is not None:
            return 0  # what its processes are sent ahead can be taken back
        return prefetch_for(settings.max_workers, abilities.max_workers, self._pace().ahead)

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
        if abilities.recipe is not None:
            return ProcessWorkers(
                pool=settings.name,
                backend=self.backend,
                recipe=abilities.recipe,
                prefetch=settings.prefetch,
                context_vars=settings.context_vars,
                dispatcher=self.dispatcher,
                runner=self.runner,
                log=self.log,
                trouble=self.trouble,
                now=self.now,
                on_broken=self._backend_broke,
                start_loops=self.start_loops,
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
            self.aside.finish(BRIEFLY)

    def _over(self) -> None:
        """Be done for good: the pool is stopped and its last worker is back."""
        watchdog().unwatch(self.monitor)
        exit_desk.come_back(self)
        self.workers.close()
        breaker = None if self.breaker is None else self.breaker.state
        with self.dispatcher.lock:
            facts = self._facts()
        # Whoever scrapes needs the numbers, which must not keep all the rest.
        facts["breaker"] = breaker
        self._export.source = Remains(facts, self.dispatcher.ledger, self.trouble.counts)
        if self.breaker is not None:
            # The application's own circuit breaker outlives the pool. Aside, since pybreaker holds its lock
            # while it runs a function of the application's.
            self.aside.say(self.breaker.detach)

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
        self.log.error("pool.backend_broken", error=shown(self.broken))
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


# All that there are. The exit desk knows only those that are not stopped, but in a forked child the lock of
# any pool may be held for ever.
_engines: WeakSet[Engine] = WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
