"""The numbers of all pools of one name at one moment, as every exporter hands them out.

What is added up is whole numbers, seconds as nanoseconds: a sum of floats depends on their order, and a
counter that goes down by its last bit is a restart to Prometheus, which would count all of it again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from prodpool.telemetry.counters import Exemplar, HistogramSnapshot
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, HistogramSpec, Labels, MetricSpec
from prodpool.telemetry.snapshot import PoolSnapshot

T = TypeVar("T")
NANOSECONDS = 1_000_000_000
Values = Mapping[Labels, float]
Bucket = tuple[float, int, Exemplar | None]


@dataclass(frozen=True, slots=True)
class HistogramTotals:
    """Histograms added up. ``buckets``: (upper bound, observations up to it, exemplar)."""

    buckets: tuple[Bucket, ...]
    nanoseconds: int
    count: int

    @classmethod
    def of(cls, histogram: HistogramSnapshot) -> HistogramTotals:
        """Return the totals of one histogram."""
        return cls(histogram.buckets, round(histogram.total * NANOSECONDS), histogram.count)

    @property
    def seconds(self) -> float:
        """The sum of all observations."""
        return self.nanoseconds / NANOSECONDS


@dataclass(frozen=True, slots=True)
class Totals:
    """What only grows: the counters and histograms of pools, by the metrics' names."""

    _counters: Mapping[str, Mapping[Labels, int]] = field(default_factory=dict)
    _histograms: Mapping[str, HistogramTotals] = field(default_factory=dict)

    def values(self, spec: MetricSpec) -> Values:
        """Return the values of a counter."""
        scale = _scale(spec)
        return {labels: value / scale for labels, value in self._counters.get(spec.name, {}).items()}

    def histogram(self, spec: HistogramSpec) -> HistogramTotals:
        """Return a histogram."""
        return self._histograms[spec.name]

    def plus(self, snapshots: Sequence[PoolSnapshot]) -> Totals:
        """Return the sum of these and those of further pools."""
        return Totals(
            {spec.name: _added_up(spec, snapshots, self._counters.get(spec.name, {})) for spec in COUNTERS},
            {
                spec.name: _sum_of(
                    (
                        *self._before(spec.name),
                        *(HistogramTotals.of(spec.read(snapshot)) for snapshot in snapshots),
                    )
                )
                for spec in HISTOGRAMS
            },
        )

    def minus(self, earlier: Totals) -> Totals:
        """Return what came after ``earlier``, which are totals of the same pools."""
        return Totals(
            {
                name: {labels: value - earlier._value(name, labels) for labels, value in values.items()}
                for name, values in self._counters.items()
            },
            {
                name: _difference(histogram, *earlier._before(name))
                for name, histogram in self._histograms.items()
            },
        )

    def _value(self, name: str, labels: Labels) -> int:
        return self._counters.get(name, {}).get(labels, 0)

    def _before(self, name: str) -> Iterable[HistogramTotals]:
        return [self._histograms[name]] if name in self._histograms else []


@dataclass(frozen=True, slots=True)
class Reading:
    """The metrics of all pools of one name.

    Attributes:
        pool: That name.
        since: Unix time in seconds at which its counters were 0.
        totals: Its counters and histograms.
        gauges: The values of its gauges, by their names.
    """

    pool: str
    since: float
    totals: Totals
    gauges: Mapping[str, Values]


def read_gauges(snapshots: Sequence[PoolSnapshot]) -> dict[str, Values]:
    """Return the gauges of pools of one name, the newest of them last."""
    in_use = [each for each in snapshots if each.state != "stopped"] or snapshots[-1:]
    return {
        spec.name: _merged(_samples(spec, in_use if spec.of_open else snapshots), spec.merge, {})
        for spec in GAUGES
    }


def _merged(
    samples: Iterable[tuple[Labels, T]], merge: Callable[[T, T], T], start: Mapping[Labels, T]
) -> dict[Labels, T]:
    values = dict(start)
    for labels, value in samples:
        values[labels] = merge(values[labels], value) if labels in values else value
    return values


def _samples(spec: MetricSpec, snapshots: Iterable[PoolSnapshot]) -> Iterator[tuple[Labels, float]]:
    return (sample for snapshot in snapshots for sample in spec.samples(snapshot))


def _added_up(
    spec: MetricSpec, snapshots: Iterable[PoolSnapshot], start: Mapping[Labels, int]
) -> dict[Labels, int]:
    scale = _scale(spec)
    counts = ((labels, round(value * scale)) for labels, value in _samples(spec, snapshots))
    return _merged(counts, operator.add, start)


def _scale(spec: MetricSpec) -> int:
    return NANOSECONDS if spec.seconds else 1


def _sum_of(histograms: Sequence[HistogramTotals]) -> HistogramTotals:
    first, *others = histograms
    if not others:
        return first
    # Of pools whose buckets differ, only the bounds that all have can be counted.
    by_bound = [{bound: (count, exemplar) for bound, count, exemplar in each.buckets} for each in histograms]
    shared = [bound for bound, _, _ in first.buckets if all(bound in each for each in by_bound)]
    buckets: list[Bucket] = []
    for bound in shared:
        there = [each[bound] for each in by_bound]
        count = sum(count for count, _ in there)
        buckets.append((bound, count, _newest(exemplar for _, exemplar in there)))
    spent, observed = sum(each.nanoseconds for each in histograms), sum(each.count for each in histograms)
    return HistogramTotals(tuple(buckets), spent, observed)


def _difference(now: HistogramTotals, before: HistogramTotals | None = None) -> HistogramTotals:
    if before is None:
        return now
    # The bounds of a name change with its pools. Only those that were there before can be counted from.
    by_bound = {bound: (count, exemplar) for bound, count, exemplar in before.buckets}
    buckets = tuple(
        (bound, count - by_bound[bound][0], None if exemplar == by_bound[bound][1] else exemplar)
        for bound, count, exemplar in now.buckets
        if bound in by_bound
    )
    return HistogramTotals(buckets, now.nanoseconds - before.nanoseconds, now.count - before.count)


def _newest(exemplars: Iterable[Exemplar | None]) -> Exemplar | None:
    there = [each for each in exemplars if each is not None]
    return max(there, key=lambda each: each.timestamp, default=None)
