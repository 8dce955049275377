"""The numbers of all pools of one name at one moment, as every exporter hands them out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from prodpool.telemetry.counters import Exemplar, HistogramSnapshot
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, Labels, MetricSpec
from prodpool.telemetry.snapshot import PoolSnapshot

Values = Mapping[Labels, float]


@dataclass(frozen=True, slots=True)
class Totals:
    """What only grows: the counters and histograms of pools, by the metrics' names."""

    counters: Mapping[str, Values] = field(default_factory=dict)
    histograms: Mapping[str, HistogramSnapshot] = field(default_factory=dict)

    def plus(self, snapshots: Sequence[PoolSnapshot]) -> Totals:
        """Return the sum of these and those of further pools."""
        return Totals(
            {spec.name: _merged(spec, snapshots, self.counters.get(spec.name, {})) for spec in COUNTERS},
            {
                spec.name: _sum_of(
                    (*self._histogram(spec.name), *(spec.read(snapshot) for snapshot in snapshots))
                )
                for spec in HISTOGRAMS
            },
        )

    def minus(self, earlier: Totals) -> Totals:
        """Return what came after ``earlier``, which are totals of the same pools."""
        return Totals(
            {
                name: {labels: value - earlier._value(name, labels) for labels, value in values.items()}
                for name, values in self.counters.items()
            },
            {
                name: _difference(histogram, *earlier._histogram(name))
                for name, histogram in self.histograms.items()
            },
        )

    def _value(self, name: str, labels: Labels) -> float:
        return self.counters.get(name, {}).get(labels, 0)

    def _histogram(self, name: str) -> Iterable[HistogramSnapshot]:
        return [self.histograms[name]] if name in self.histograms else []


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
    return {spec.name: _merged(spec, in_use if spec.of_open else snapshots) for spec in GAUGES}


def _merged(spec: MetricSpec, snapshots: Iterable[PoolSnapshot], start: Values | None = None) -> Values:
    values = dict(start or {})
    for snapshot in snapshots:
        for labels, value in spec.samples(snapshot):
            values[labels] = spec.merge(values[labels], value) if labels in values else value
    return values


def _sum_of(histograms: Sequence[HistogramSnapshot]) -> HistogramSnapshot:
    first, *others = histograms
    if not others:
        return first
    # Of pools whose buckets differ, only the bounds that all have can be counted.
    by_bound = [{bound: (count, exemplar) for bound, count, exemplar in each.buckets} for each in histograms]
    shared = [bound for bound, _, _ in first.buckets if all(bound in each for each in by_bound)]
    buckets = []
    for bound in shared:
        there = [each[bound] for each in by_bound]
        count = sum(count for count, _ in there)
        buckets.append((bound, count, _newest(exemplar for _, exemplar in there)))
    total, observed = sum(each.total for each in histograms), sum(each.count for each in histograms)
    return HistogramSnapshot(tuple(buckets), total, observed)


def _difference(now: HistogramSnapshot, before: HistogramSnapshot | None = None) -> HistogramSnapshot:
    if before is None:
        return now
    # The bounds of a name change with its pools. Only those that were there before can be counted from.
    by_bound = {bound: (count, exemplar) for bound, count, exemplar in before.buckets}
    buckets = tuple(
        (bound, count - by_bound[bound][0], None if exemplar == by_bound[bound][1] else exemplar)
        for bound, count, exemplar in now.buckets
        if bound in by_bound
    )
    return HistogramSnapshot(buckets, now.total - before.total, now.count - before.count)


def _newest(exemplars: Iterable[Exemplar | None]) -> Exemplar | None:
    there = [each for each in exemplars if each is not None]
    return max(there, key=lambda each: each.timestamp, default=None)
