"""The numbers of pools as metrics of the OpenTelemetry SDK.

A metric has the name that it has in Prometheus, and the unit that this name says (docs/decisions, D30).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)

from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, HistogramSpec, Labels, MetricSpec
from prodpool.telemetry.readings import HistogramTotals, Reading, Totals, Values

try:
    from opentelemetry.sdk.metrics import Exemplar as _SdkExemplar
except ImportError:  # before 1.28
    _SdkExemplar = None  # type: ignore[assignment, misc]

_CUMULATIVE = AggregationTemporality.CUMULATIVE
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class PoolInterval:
    """What is exported of one name. Times are Unix times in nanoseconds.

    Attributes:
        reading: Its numbers at the end.
        added: What its counters and histograms have counted from the start on.
        start: The last export that arrived; the time at which its counters were 0 if none did.
        end: When it was read.
        gone: Whether it is no longer exported, and only what was added is still to be sent.
    """

    reading: Reading
    added: Totals
    start: int
    end: int
    gone: bool = False

    def counted(self, temporality: AggregationTemporality) -> tuple[Totals, int]:
        """Return counters and histograms in one temporality, and the time from which they count."""
        if temporality == _CUMULATIVE:
            totals, start = self.reading.totals, since_of(self.reading)
        else:
            totals, start = self.added, self.start
        # The clock of the system may have been set back.
        return totals, min(start, self.end)


def since_of(reading: Reading) -> int:
    """Return the Unix time in nanoseconds at which the counters of a name were 0."""
    return int(reading.since * _NANOSECONDS)


def metrics_of(
    intervals: Sequence[PoolInterval], counters: AggregationTemporality, histograms: AggregationTemporality
) -> list[Metric]:
    """Return the metrics of all names, with the temporality of the counters and that of the histograms."""
    if not intervals:
        return []
    every = [
        *(_counter(spec, intervals, counters) for spec in COUNTERS),
        *(_gauge(spec, intervals) for spec in GAUGES),
        *(_histogram(spec, intervals, histograms) for spec in HISTOGRAMS),
    ]
    # One that no pool has asked for has no points, and OTLP knows no gauge without any.
    return [metric for metric in every if metric.data.data_points]


def _metric(name: str, description: str, data: Any) -> Metric:
    # A backend that derives names from units adds none that the name has. "1" would add "ratio" to a gauge.
    return Metric(name, description, "s" if "seconds" in name.split("_") else "", data)


def _counter(
    spec: MetricSpec, intervals: Iterable[PoolInterval], temporality: AggregationTemporality
) -> Metric:
    points: list[NumberDataPoint] = []
    for each, totals, start in _counted(intervals, temporality):
        points += _points(spec, each, totals.values(spec), start)
    return _metric(spec.name, spec.help, Sum(points, temporality, is_monotonic=True))


def _gauge(spec: MetricSpec, intervals: Iterable[PoolInterval]) -> Metric:
    points: list[NumberDataPoint] = []
    for each, _, _ in _counted(intervals, _CUMULATIVE):
        points += _points(spec, each, each.reading.gauges[spec.name], since_of(each.reading))
    return _metric(spec.name, spec.help, Gauge(points))


def _counted(
    intervals: Iterable[PoolInterval], temporality: AggregationTemporality
) -> Iterator[tuple[PoolInterval, Totals, int]]:
    """Yield what is sent in one temporality: the interval, what it has counted, and from when."""
    for each in intervals:
        if not each.gone or temporality != _CUMULATIVE:
            yield each, *each.counted(temporality)


def _points(
    spec: MetricSpec, interval: PoolInterval, values: Values, start: int
) -> Iterator[NumberDataPoint]:
    for labels, value in values.items():
        # Always a float: most gauges are whole numbers.
        yield NumberDataPoint(_attributes(interval, spec.labels, labels), start, interval.end, float(value))


def _attributes(interval: PoolInterval, names: Labels, values: Labels) -> dict[str, str]:
    return {"pool": interval.reading.pool, **dict(zip(names, values, strict=True))}


def _histogram(
    spec: HistogramSpec, intervals: Iterable[PoolInterval], temporality: AggregationTemporality
) -> Metric:
    points: list[HistogramDataPoint] = []
    for each, totals, start in _counted(intervals, temporality):
        points.append(_histogram_point(each, totals.histogram(spec), start))
    return _metric(spec.name, spec.help, Histogram(points, temporality))


def _histogram_point(interval: PoolInterval, histogram: HistogramTotals, start: int) -> HistogramDataPoint:
    up_to = [count for _, count, _ in histogram.buckets]
    # The pool does not keep the least and the greatest. The SDK's type asks for floats; OTLP takes None.
    unknown: Any = None
    return HistogramDataPoint(
        attributes=_attributes(interval, (), ()),
        start_time_unix_nano=start,
        time_unix_nano=interval.end,
        count=histogram.count,
        sum=histogram.seconds,
        bucket_counts=[after - before for before, after in pairwise((0, *up_to))],
        explicit_bounds=[bound for bound, _, _ in histogram.buckets[:-1]],
        min=unknown,
        max=unknown,
        **_exemplars(histogram),
    )


def _exemplars(histogram: HistogramTotals) -> dict[str, Any]:
    if _SdkExemplar is None:
        return {}
    return {
        "exemplars": [
            _SdkExemplar(
                filtered_attributes={},
                value=exemplar.value,
                time_unix_nano=int(exemplar.timestamp * _NANOSECONDS),
                span_id=int(exemplar.span_id, 16),
                trace_id=int(exemplar.trace_id, 16),
            )
            for _, _, exemplar in histogram.buckets
            if exemplar is not None
        ]
    }
