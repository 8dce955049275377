"""The snapshots of all pools of a registry as Prometheus metrics, made at scrape.

One collector per registry: two collectors with one metric family raise on the default registry and
silently double the family on any other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from prodpool.concurrency import fork_hooks
from prodpool.telemetry.counters import HistogramSnapshot
from prodpool.telemetry.snapshot import BREAKER_STATES, PoolSnapshot, Source

# Dropped pools of different names whose numbers are kept for a scrape; of more than that the oldest are not,
# for there may never be a scrape.
UNSCRAPED = 1000

Sample = tuple[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One exported metric: its name, its labels beside ``pool``, its meaning and where it comes from."""

    name: str
    help: str
    labels: tuple[str, ...]
    samples: Callable[[PoolSnapshot], Iterable[Sample]]


def _plain(get: Callable[[PoolSnapshot], float]) -> Callable[[PoolSnapshot], Iterable[Sample]]:
    return lambda reading: [((), get(reading))]


def _breaker(reading: PoolSnapshot) -> Iterable[Sample]:
    # Every state is there also without a breaker: a series that appears later is invisible to increase().
    return [((state,), float(state == (reading.breaker or "closed"))) for state in BREAKER_STATES]


COUNTERS = (
    MetricSpec("workerpool_submitted_total", "Tasks admitted.", (), _plain(lambda r: r.submitted)),
    MetricSpec(
        "workerpool_completed_total",
        "Tasks finished, by result.",
        ("result",),
        lambda r: [((result.value,), count) for result, count in r.completed.items()],
    ),
    MetricSpec(
        "workerpool_dropped_total",
        "Tasks that never ran: refused by submit or dropped after admission.",
        ("reason",),
        lambda r: [((reason.value,), count) for reason, count in r.dropped.items()],
    ),
    MetricSpec(
        "workerpool_busy_seconds_total",
        "Worker seconds spent in tasks, running ones included.",
        (),
        _plain(lambda r: r.busy_seconds),
    ),
    MetricSpec(
        "workerpool_slow_tasks_total",
        "Finished tasks that ran longer than slow_after.",
        (),
        _plain(lambda r: r.slow),
    ),
    MetricSpec(
        "workerpool_backend_rebuilds_total",
        "Worker processes that died and were replaced, and times a backend broke and was built anew.",
        (),
        _plain(lambda r: r.backend_rebuilds),
    ),
    MetricSpec(
        "workerpool_telemetry_errors_total",
        "Errors raised while observing, and what a hung sink had no room for, by sink; no task was touched.",
        ("sink",),
        lambda r: [((sink,), count) for sink, count in r.telemetry_errors.items()],
    ),
)

GAUGES = (
    MetricSpec("workerpool_queue_depth", "Tasks waiting now.", (), _plain(lambda r: r.queued)),
    MetricSpec("workerpool_queue_capacity", "Tasks that may wait.", (), _plain(lambda r: r.queue_capacity)),
    MetricSpec("workerpool_workers", "Tasks that may run at once.", (), _plain(lambda r: r.workers)),
    MetricSpec("workerpool_workers_busy", "Tasks running now.", (), _plain(lambda r: r.running)),
    MetricSpec(
        "workerpool_oldest_queued_seconds",
        "How long the first task of the queue has waited.",
        (),
        _plain(lambda r: r.oldest_queued),
    ),
    MetricSpec(
        "workerpool_longest_running_seconds",
        "How long the oldest running task, or done-callback, has run.",
        (),
        _plain(lambda r: r.longest_running),
    ),
    MetricSpec(
        "workerpool_hung_tasks",
        "Tasks, and done-callbacks of tasks, that have run longer than hung_after.",
        (),
        _plain(lambda r: r.hung),
    ),
    MetricSpec("workerpool_breaker_state", "1 for the state that the breaker is in.", ("state",), _breaker),
    MetricSpec(
        "workerpool_stopped",
        "1 once draining has begun.",
        (),
        _plain(lambda r: float(r.state != "open")),
    ),
    MetricSpec(
        "workerpool_info",
        "Which backend and which version of prodpool; always 1.",
        ("backend", "version"),
        lambda r: [((r.backend, r.version), 1.0)],
    ),
)

HISTOGRAMS: tuple[tuple[str, str, Callable[[PoolSnapshot], HistogramSnapshot]], ...] = (
    ("workerpool_queue_dwell_seconds", "Time from admission to the start of the run.", lambda r: r.dwell),
    ("workerpool_task_duration_seconds", "Time from start to end of the run.", lambda r: r.duration),
    (
        "workerpool_admission_wait_seconds",
        "Time that a waiting submit was blocked.",
        lambda r: r.admission_wait,
    ),
)


class Export:
    """One pool's place in a collector. A finalizer may write to it anywhere, so that takes no lock.

    Attributes:
        source: Where its numbers come from. Once the pool has stopped, something that holds nothing else;
            None for a pool that was garbage-collected before its first use.
        last: Whether it is forgotten after one more scrape, because the pool was garbage-collected.
    """

    __slots__ = ("last", "source")

    def __init__(self, source: Source) -> None:
        self.source: Source | None = source
        self.last = False


class PoolCollector(Collector):
    """Collects the snapshots of the pools of one registry."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._exports: dict[str, Export] = {}  # guarded by _lock

    def add(self, pool: str, source: Source) -> Export:
        """Export ``source``; it takes the place of a stopped pool of that name.

        Raises:
            ValueError: A pool of that name is alive.
        """
        with self._lock:
            before = self._exports.get(pool)
            alive = None if before is None else before.source
            if alive is not None and alive.snapshot().state != "stopped":
                raise ValueError(
                    f"name={pool!r}: a pool of that name is alive in this registry, and its metrics would "
                    "be counted twice: choose another name, stop that pool first, or pass another registry"
                )
            self._exports.pop(pool, None)  # or the new one would have the old one's age
            self._exports[pool] = export = Export(source)
            self._forget_unused()
            last = [name for name, each in self._exports.items() if each.last]
            for name in last[:-UNSCRAPED]:
                del self._exports[name]
            return export

    def _forget_unused(self) -> None:
        for name in [name for name, each in self._exports.items() if each.source is None]:
            del self._exports[name]

    def remove(self, pool: str, export: Export) -> None:
        """Export it no more."""
        with self._lock:
            if self._exports.get(pool) is export:
                del self._exports[pool]

    def withdraw(self, pool: str, source: Source) -> None:
        """Remove a source whose `add` was interrupted before it returned."""
        with self._lock:
            export = self._exports.get(pool)
            if export is not None and export.source is source:
                del self._exports[pool]

    def forget_all(self) -> None:
        """Drop all sources without taking a lock, for a forked child."""
        self._lock = threading.RLock()
        self._exports = {}

    def describe(self) -> Iterable[Metric]:
        """Name the families without reading anything: a registry asks while it holds its lock."""
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        """Read every pool and return the families."""
        fork_hooks.notice_fork()
        with self._lock:
            # Those that are forgotten now are read once more, and none is forgotten unread.
            last = [pool for pool, export in self._exports.items() if export.last]
            sources = [one for export in self._exports.values() if (one := export.source) is not None]
            for pool in last:
                del self._exports[pool]
            self._forget_unused()
        yield from self._families([source.snapshot() for source in sources])

    def _families(self, readings: list[PoolSnapshot]) -> Iterator[Metric]:
        for kind, specs in ((CounterMetricFamily, COUNTERS), (GaugeMetricFamily, GAUGES)):
            for spec in specs:
                family: Any = kind(spec.name, spec.help, labels=("pool", *spec.labels))
                for reading in readings:
                    for labels, value in spec.samples(reading):
                        family.add_metric((reading.pool, *labels), value)
                yield family
        for name, text, get in HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=("pool",))
            for reading in readings:
                _add_histogram(histogram, reading.pool, get(reading))
            yield histogram


def _add_histogram(family: HistogramMetricFamily, pool: str, reading: HistogramSnapshot) -> None:
    buckets: list[Any] = []
    for bound, count, exemplar in reading.buckets:
        link = (
            None
            if exemplar is None
            else Exemplar({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.timestamp)
        )
        buckets.append((floatToGoString(bound), count, link))  # type: ignore[no-untyped-call]
    family.add_metric([pool], buckets, reading.total)


_collectors: WeakKeyDictionary[CollectorRegistry, PoolCollector] = WeakKeyDictionary()
_collectors_lock = threading.RLock()


def collector_of(registry: CollectorRegistry) -> PoolCollector:
    """Return the collector that serves ``registry``, registering one if there is none yet."""
    with _collectors_lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = PoolCollector()
            registry.register(collector)
            _collectors[registry] = collector
        return collector


def forget_after_fork() -> None:
    """Export nothing of the parent's pools in a forked child."""
    global _collectors_lock  # noqa: PLW0603  # the parent's may be held for ever
    _collectors_lock = threading.RLock()
    for collector in list(_collectors.values()):
        collector.forget_all()
