"""Which kind of workers a backend gets, put together for one pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prodpool.config.settings import PoolSettings
from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.workers.base import Capabilities, Workers, prefetch_for
from prodpool.workers.handoff.rebuildable_backend import BackendFactory, RebuildableBackend
from prodpool.workers.handoff.workers import HandoffWorkers
from prodpool.workers.inline.workers import InlineWorkers
from prodpool.workers.processes.workers import ProcessWorkers
from prodpool.workers.run_times import AdaptivePrefetch
from prodpool.workers.threads.leased import LeasedWorkers


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersBuilder:
    """What the workers of one pool are made of.

    Attributes:
        settings: The pool's arguments.
        backend: The executor that is wrapped.
        abilities: What that can do.
        factory: Makes another backend when this one breaks; None if it cannot be replaced.
        dispatcher: Gives tasks.
        runner: Runs and settles them.
        log: The pool's log.
        telemetry_errors: Told what goes wrong inside.
        now: The pool's clock.
        start_loops: Starts so many workers.
        on_lost: Called when a worker is lost, with the task that it held and why.
        on_broken: Called when the backend will run nothing any more.
    """

    settings: PoolSettings
    backend: Any
    abilities: Capabilities
    factory: BackendFactory | None
    dispatcher: Dispatcher
    runner: Runner
    log: PoolLog
    telemetry_errors: TelemetryErrors
    now: Callable[[], float]
    start_loops: Callable[[int], None]
    on_lost: Callable[[Task | None, BaseException | None], None]
    on_broken: Callable[[BaseException | None], None]

    def build(self) -> Workers:
        """Return the workers that fit the backend; none is started yet."""
        if self.abilities.inline:
            return self._inline()
        if self.abilities.leased:
            return self._leased()
        return self._handoff() if self.abilities.template is None else self._processes()

    def _leased(self) -> LeasedWorkers:
        return LeasedWorkers(
            pool=self.settings.name,
            backend=self.backend,
            dispatcher=self.dispatcher,
            runner=self.runner,
            max_workers=self.abilities.max_workers,
            linger=self.abilities.linger,
            shared=not self.settings.own_backend,
            now=self.now,
            on_lost=self.on_lost,
        )

    def _inline(self) -> InlineWorkers:
        return InlineWorkers(
            pool=self.settings.name,
            backend=self.backend,
            dispatcher=self.dispatcher,
            runner=self.runner,
            max_workers=self.abilities.max_workers,
            own_backend=self.settings.own_backend,
            now=self.now,
        )

    def _processes(self) -> ProcessWorkers:
        assert self.abilities.template is not None  # noqa: S101  # `build` looked
        return ProcessWorkers(
            pool=self.settings.name,
            backend=self.backend,
            template=self.abilities.template,
            prefetch=self.settings.prefetch,
            context_vars=self.settings.context_vars,
            dispatcher=self.dispatcher,
            runner=self.runner,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            now=self.now,
            on_broken=self.on_broken,
            start_loops=self.start_loops,
        )

    def _handoff(self) -> HandoffWorkers:
        return HandoffWorkers(
            pool=self.settings.name,
            backends=RebuildableBackend(
                self.backend,
                self.factory,
                self.abilities.max_workers,
                self.now,
                processes=self.abilities.processes or (lambda _: []),
            ),
            own_backend=self.settings.own_backend,
            prefetch=adaptive_prefetch(self.settings, self.abilities),
            abilities=self.abilities,
            log=self.log,
            telemetry_errors=self.telemetry_errors,
            context_vars=self.settings.context_vars,
            dispatcher=self.dispatcher,
            runner=self.runner,
            now=self.now,
            on_broken=self.on_broken,
        )


def adaptive_prefetch(settings: PoolSettings, abilities: Capabilities) -> AdaptivePrefetch:
    """Return how many tasks a backend is sent beyond those that it runs, to begin with."""
    wanted = settings.prefetch
    # A backend that nothing is known of may have workers to spare, which would run what is ahead.
    fixed = wanted is not None or abilities.prefetch == 0
    return AdaptivePrefetch(abilities.prefetch if wanted is None else wanted, fixed=fixed)


def first_prefetch(settings: PoolSettings, abilities: Capabilities) -> int:
    """Return how many tasks the backend takes at first beyond those that it runs."""
    if abilities.template is not None:
        return 0  # what its processes are sent ahead can be withdrawn
    ahead = adaptive_prefetch(settings, abilities).ahead
    return prefetch_for(settings.max_workers, abilities.max_workers, ahead)
