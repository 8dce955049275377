"""The pools of a registry as Prometheus metrics, made at scrape.

One collector per registry: two collectors with one metric family raise on the default registry and
silently double the family on any other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from prodpool.concurrency import fork_hooks
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, MetricSpec
from prodpool.telemetry.pool_exports import PoolExports
from prodpool.telemetry.readings import HistogramTotals, Reading, Values


class PoolCollector(Collector):
    """Collects the numbers of the pools of one registry."""

    def __init__(self) -> None:
        self.exports = PoolExports()
        # Whether its registry was inherited by a fork: the registry's lock may be held for ever then.
        self.inherited = False

    def describe(self) -> Iterable[Metric]:
        """Name the families without reading anything: a registry asks while it holds its lock."""
        return self._families([])

    def collect(self) -> Iterator[Metric]:
        """Read every pool and return the families."""
        fork_hooks.notice_fork()
        yield from self._families(self.exports.readings())

    def _families(self, readings: list[Reading]) -> Iterator[Metric]:
        for spec in COUNTERS:
            counts = ((each.pool, each.totals.values(spec)) for each in readings)
            yield _family(CounterMetricFamily, spec, counts)
        for spec in GAUGES:
            yield _family(GaugeMetricFamily, spec, ((each.pool, each.gauges[spec.name]) for each in readings))
        for each in HISTOGRAMS:
            histogram = HistogramMetricFamily(each.name, each.help, labels=("pool",))
            for reading in readings:
                _add_histogram(histogram, reading.pool, reading.totals.histogram(each))
            yield histogram


def _family(kind: Any, spec: MetricSpec, pools: Iterable[tuple[str, Values]]) -> Metric:
    family: Any = kind(spec.name, spec.help, labels=("pool", *spec.labels))
    for pool, values in pools:
        for labels, value in values.items():
            family.add_metric((pool, *labels), value)
    return family  # type: ignore[no-any-return]


def _add_histogram(family: HistogramMetricFamily, pool: str, reading: HistogramTotals) -> None:
    buckets: list[Any] = []
    for bound, count, exemplar in reading.buckets:
        link = (
            None
            if exemplar is None
            else Exemplar({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.timestamp)
        )
        buckets.append((floatToGoString(bound), count, link))  # type: ignore[no-untyped-call]
    family.add_metric([pool], buckets, reading.seconds)


_collectors: WeakKeyDictionary[CollectorRegistry, PoolCollector] = WeakKeyDictionary()
_collectors_lock = threading.RLock()


def collector_of(registry: CollectorRegistry) -> PoolCollector:
    """Return the collector of the pools of ``registry``, which gets one if it has none.

    Raises:
        ValueError: The registry has metrics of the same names from elsewhere.
    """
    with _collectors_lock:
        collector = _collectors.get(registry)
        if collector is None:
            collector = PoolCollector()
            registry.register(collector)
            _collectors[registry] = collector
        elif not collector.inherited:
            # Tests of an application may have emptied the registry; there is no other public way to ask.
            with suppress(ValueError):
                registry.register(collector)
        return collector


def forget_after_fork() -> None:
    """Export nothing of the parent's pools in a forked child."""
    global _collectors_lock  # noqa: PLW0603  # the parent's may be held for ever
    _collectors_lock = threading.RLock()
    for collector in list(_collectors.values()):
        collector.exports.forget_all()
        collector.inherited = True
