"""The pools of a registry as OpenTelemetry metrics, sent along with those of the application.

`PoolMetricExporter` stands between a reader of the SDK and an exporter, and adds the pools when the reader
exports. No task does anything for it.

A reader calls its exporter only if an instrument of its provider has a value (opentelemetry-sdk 1.45). An
application may have no instrument, so one of ours has a value always; the metrics of the pools are sent in
its place.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.sdk.metrics import Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY
from prometheus_client.registry import CollectorRegistry

from prodpool.concurrency import fork_hooks
from prodpool.config.settings import check_methods
from prodpool.telemetry.exporters.opentelemetry_metrics import PoolInterval, metrics_of, since_of
from prodpool.telemetry.exporters.prometheus import collector_of
from prodpool.telemetry.pool_exports import UNSCRAPED_NAMES
from prodpool.text import shown
from prodpool.version import __version__

_SCOPE = InstrumentationScope("prodpool", __version__)
_PLACEHOLDER = "prodpool.placeholder"


class PoolMetricExporter(MetricExporter):
    """Adds the metrics of the pools to what another exporter sends.

    They have the names and the numbers that a Prometheus scrape has. Give it to a
    ``PeriodicExportingMetricReader``. If the ``MeterProvider`` of that reader is not made the global one,
    call `attach` with it.

    A counter or histogram with delta temporality has what was added since the last export that arrived, so an
    export that fails loses nothing.

    Args:
        exporter: Sends the metrics, such as ``OTLPMetricExporter()``.
        registry: The registry whose pools are exported; None for the default one.
        preferred_temporality: What a ``MetricExporter`` takes by this name, for the application's instruments
            as well; it goes before that of ``exporter``. A pool's counters are exported as an
            ``ObservableCounter`` is, its histograms as a ``Histogram`` is.

    Raises:
        TypeError: ``exporter`` is no ``MetricExporter``, or ``registry`` no registry.

    Threads: as for any exporter, its reader makes one call at a time.
    Source: opentelemetry.io/docs/specs/otel/metrics/data-model
    """

    # What has arrived last of each name, and what has not arrived since.
    _sent: dict[str, PoolInterval]
    _unsent: list[PoolInterval]

    def __init__(
        self,
        exporter: MetricExporter,
        *,
        registry: CollectorRegistry | None = None,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
    ) -> None:
        if not isinstance(exporter, MetricExporter):
            raise TypeError(
                f"exporter={shown(exporter)} must be a MetricExporter, such as OTLPMetricExporter() of "
                "opentelemetry-exporter-otlp-proto-http"
            )
        check_methods("registry", registry, ("register", "collect"), "a prometheus_client.CollectorRegistry")
        # The SDK has no public way to read these two (D30). Its own reader reads them by these names.
        preferred = getattr(exporter, "_preferred_temporality", None)
        aggregation = getattr(exporter, "_preferred_aggregation", None)
        temporality: dict[type, AggregationTemporality] = {
            **(preferred or {}),
            **(preferred_temporality or {}),
        }
        super().__init__(temporality, aggregation)
        self._counters = temporality.get(ObservableCounter, AggregationTemporality.CUMULATIVE)
        self._histograms = temporality.get(Histogram, AggregationTemporality.CUMULATIVE)
        self._exporter = exporter
        self._exports = collector_of(REGISTRY if registry is None else registry).exports
        self._start_anew()
        _attach_to_global()

    def attach(self, meter_provider: MeterProvider) -> None:
        """Have the readers of a provider export although the application has no instrument.

        It is needed once for a provider that is not the global one.
        """
        _place_in(meter_provider)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send the metrics of the application and those of the pools."""
        if not self._mark[0]:
            self._start_anew()
        intervals = self._intervals()
        data = _with_pools(metrics_data, metrics_of(intervals, self._counters, self._histograms))
        if data is None:
            return MetricExportResult.SUCCESS
        # Before it is sent: an exporter may raise.
        self._unsent = intervals[-UNSCRAPED_NAMES:]
        result = self._exporter.export(data, timeout_millis=timeout_millis, **kwargs)
        if result is MetricExportResult.SUCCESS:
            self._sent = {each.reading.pool: each for each in intervals if not each.gone}
            self._unsent = []
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Have the exporter send what it still holds."""
        return self._exporter.force_flush(timeout_millis=timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown(timeout_millis=timeout_millis, **kwargs)

    def _start_anew(self) -> None:
        """Know nothing of an earlier export: those of the process that has forked this one are not ours."""
        # It is 0 in a child, also of a fork made in C, and to ask for a new one drops the parent's pools.
        self._mark = fork_hooks.process_mark()
        self._sent = {}
        self._unsent = []

    def _intervals(self) -> list[PoolInterval]:
        readings = self._exports.readings()
        now = time.time_ns()
        there = {reading.pool: since_of(reading) for reading in readings}
        # Names that were forgotten after an export that failed. One that has come back counts from 0.
        gone = [
            replace(each, gone=True, end=there.get(each.reading.pool, now))
            for each in self._unsent
            if there.get(each.reading.pool) != since_of(each.reading)
        ]
        intervals = gone
        for reading in readings:
            last = self._sent.get(reading.pool)
            if last is not None and last.reading.since == reading.since:
                intervals.append(
                    PoolInterval(reading, reading.totals.minus(last.reading.totals), last.end, now)
                )
            else:
                intervals.append(PoolInterval(reading, reading.totals, since_of(reading), now))
        return intervals


def _with_pools(data: MetricsData, pools: list[Metric]) -> MetricsData | None:
    """Return the data with the pools' metrics instead of the placeholder; None if there is nothing in it."""
    first, *others = data.resource_metrics or [ResourceMetrics(Resource.create(), [], "")]
    scopes = [
        replace(each, metrics=[metric for metric in each.metrics if metric.name != _PLACEHOLDER])
        for each in first.scope_metrics
    ]
    # An exporter may keep only the last of two entries of one scope, or of one resource.
    of_ours = [metric for each in scopes if each.scope == _SCOPE for metric in each.metrics] + pools
    scopes = [each for each in scopes if each.metrics and each.scope != _SCOPE]
    if of_ours:
        scopes.append(ScopeMetrics(_SCOPE, of_ours, ""))
    if not scopes and not others:
        return None
    return MetricsData([replace(first, scope_metrics=scopes), *others])


_is_in_global = False


def _attach_to_global() -> None:
    """Attach to the global provider, also if it is set later. Older SDKs log it if this is done twice."""
    global _is_in_global  # noqa: PLW0603  # there is one such provider in a process
    if not _is_in_global:
        _is_in_global = True
        _place_in(metrics.get_meter_provider())


def _place_in(provider: MeterProvider) -> None:
    provider.get_meter(_SCOPE.name, _SCOPE.version).create_observable_gauge(
        _PLACEHOLDER,
        [_one],
        description="Always 1. PoolMetricExporter sends the metrics of the pools in its place.",
    )


def _one(_: CallbackOptions) -> Iterable[Observation]:
    return [Observation(1)]
