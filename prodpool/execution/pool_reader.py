"""Takes the snapshots of one pool, and estimates from its numbers when a slot is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prodpool.config.settings import PoolSettings
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.telemetry.snapshot import PoolSnapshot, StoppedPoolSource, tally
from prodpool.version import __version__

if TYPE_CHECKING:
    from prodpool.workers.base import Workers

# Seconds that a task is taken to need while none has finished, and the least that `retry_after` says: a
# caller that heeds it must not spin.
DEFAULT_MEAN = 1.0
MIN_RETRY_AFTER = 0.01


class PoolReader:
    """Reads one pool; it is the pool's `Source` for exporters.

    Args:
        settings: The pool's arguments.
        dispatcher: What holds its tasks and counters.
        backend: Word for its backend.
        workers: What runs its tasks.
        breaker: Returns the state of its breaker; None without one.
        errors: Returns how many errors its observers raised, by sink.
        knobs: What it was told, as it is exported.
        now: The pool's clock.
    """

    def __init__(
        self,
        settings: PoolSettings,
        dispatcher: Dispatcher,
        *,
        backend: str,
        workers: Workers,
        breaker: Callable[[], str | None],
        errors: Callable[[], Mapping[str, int]],
        knobs: Mapping[str, float],
        now: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._backend = backend
        self._workers = workers
        self._breaker = breaker
        self._errors = errors
        self._knobs = knobs
        self._now = now
        self._busy_seconds = 0.0  # as read last; guarded by the dispatcher's lock

    def snapshot(self) -> PoolSnapshot:
        """Read the pool at one moment, under one lock."""
        self._workers.refresh()
        breaker, errors = self._breaker(), self._errors()
        with self._dispatcher.lock:
            facts, numbers = self._facts(), tally(self._dispatcher.counters)
        return PoolSnapshot(**facts, **numbers, breaker=breaker, telemetry_errors=errors)

    def last_source(self) -> StoppedPoolSource:
        """Return what a scrape needs of a pool that has stopped; it does not keep the rest alive."""
        breaker = self._breaker()
        with self._dispatcher.lock:
            facts = self._facts()
        facts["breaker"] = breaker
        return StoppedPoolSource(facts, self._dispatcher.counters, self._errors)

    def _facts(self) -> dict[str, Any]:
        """Return the fields of a snapshot that the counters do not know. The dispatcher's lock is held."""
        settings, dispatcher = self._settings, self._dispatcher
        now = self._now()
        there = dispatcher.occupancy()
        first = dispatcher.queue.first()
        workers = list(dispatcher.worker_set.workers)
        # A task may begin after ``now`` was read: it has run for no time then, not for less.
        starts = [worker.started for worker in workers]
        runs = [max(0.0, now - began) for began in starts if began is not None]
        # And one may have ended before ``now``, and be counted with less than it was shown with. A
        # counter that goes down is a restart to Prometheus, which would count the whole of it again.
        self._busy_seconds = max(self._busy_seconds, dispatcher.counters.busy_seconds + sum(runs))
        # What a worker is busy with, callbacks included, may hang.
        since = [worker.busy_since() for worker in workers]
        busy = [max(0.0, now - began) for began in since if began is not None]
        return {
            "pool": settings.name,
            "backend": self._backend,
            "version": __version__,
            "state": dispatcher.state.value,
            "workers": dispatcher.workers(),
            "queue_capacity": dispatcher.queue_capacity,
            "queued": there.queued,
            "running": there.running,
            "busy_seconds": self._busy_seconds,
            "oldest_queued": 0.0 if first is None else max(0.0, now - first.admitted_at),
            "longest_running": max(busy, default=0.0),
            "hung": sum(run >= settings.hung_after for run in busy),
            "backend_rebuilds": self._workers.rebuilds(),
            "knobs": self._knobs,
        }

    def retry_after(self, mean: float | None) -> float:
        """Estimate the seconds until a slot is free: the ``mean`` duration of a task, shared by all workers.

        Tasks that run for longer than that already are taken to need as long again. ``mean`` is None while no
        task has finished.
        """
        now = self._now()
        starts = [worker.started for worker in list(self._dispatcher.worker_set.workers)]
        runs = [now - began for began in starts if began is not None]
        guess = max(DEFAULT_MEAN if mean is None else mean, fmean(runs or [0.0]))
        return max(MIN_RETRY_AFTER, guess / self._dispatcher.workers())
