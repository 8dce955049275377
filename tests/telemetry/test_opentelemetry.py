"""The pools as OpenTelemetry metrics: over real OTLP they have the numbers of a Prometheus scrape."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import opentelemetry.sdk.metrics as sdk
import pytest
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import Observation
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality as Received
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry

import prodpool.opentelemetry
from prodpool import BreakerPolicy, InstrumentedPool, PoolClosedError, PoolFullError, Reason, Result
from prodpool.opentelemetry import PoolMetricExporter
from prodpool.task.outcomes import LossCause
from prodpool.telemetry.counters import Histogram as PoolHistogram
from prodpool.telemetry.exporters.prometheus import collector_of
from prodpool.telemetry.pool_exports import Export
from prodpool.telemetry.snapshot import PoolSnapshot
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import ROOT, MakePool
from tests.telemetry.collector import ListExporter, MetricReceiver, points_of, receiving_metrics
from tests.telemetry.scraping import Series, of_the_pools, series
from tests.telemetry.test_metrics import EXPECTED, HISTOGRAMS
from tests.telemetry.tracer import Spans, context_of

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
ALL_DELTA: dict[type, AggregationTemporality] = {Counter: DELTA, ObservableCounter: DELTA, Histogram: DELTA}
TEMPORALITIES = pytest.mark.parametrize("preferred", [{}, ALL_DELTA], ids=["cumulative", "delta"])
NANOSECONDS = 1_000_000_000


@dataclass
class Pushed:
    """A provider without an instrument of its own, whose exports arrive at a receiver."""

    receiver: MetricReceiver
    provider: MeterProvider

    def export(self) -> None:
        self.provider.force_flush()


@contextmanager
def provider_of(exporter: MetricExporter) -> Iterator[MeterProvider]:
    """Return a provider that exports when it is flushed, and at no other time."""
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
    resource = Resource({"service.name": "shop"})
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    if isinstance(exporter, PoolMetricExporter):
        exporter.attach(provider)
    try:
        yield provider
    finally:
        provider.shutdown()


@contextmanager
def pushed(
    registry: CollectorRegistry, preferred: dict[type, AggregationTemporality] | None = None
) -> Iterator[Pushed]:
    """Push the pools of a registry over OTLP."""
    with receiving_metrics() as (receiver, address):
        otlp = OTLPMetricExporter(address, timeout=int(PATIENCE), preferred_temporality=preferred)
        with provider_of(PoolMetricExporter(otlp, registry=registry)) as provider:
            yield Pushed(receiver, provider)


NOTHING = MetricsData([])


class MadeUp:
    """A source whose every number differs from zero, and from those of its pool before."""

    def __init__(self, of: PoolSnapshot) -> None:
        self.now = of

    def snapshot(self) -> PoolSnapshot:
        return self.now

    def grow(self) -> None:
        """Count some more of everything."""
        old, histogram = self.now, PoolHistogram((0.5, 2.0))
        for seconds in (0.25, 1.5, 1.0, 8.0):
            histogram.observe(seconds)
        for seconds in [4.0] * old.submitted:
            histogram.observe(seconds)
        first = old.submitted + 3
        self.now = replace(
            old,
            submitted=first,
            completed={result: first + number for number, result in enumerate(Result)},
            dropped={reason: 2 * first + number for number, reason in enumerate(Reason)},
            telemetry_errors={sink: 3 * first + n for n, sink in enumerate(old.telemetry_errors)},
            dwell=histogram.read(),
            duration=histogram.read(),
            admission_wait=histogram.read(),
            busy_seconds=first + 0.25,
            oldest_queued=first + 0.5,
            longest_running=first + 0.75,
            hung=first + 4,
            slow=first + 5,
            abandoned=first + 9,
            workers_started=first + 10,
            workers_lost={cause: 4 * first + number for number, cause in enumerate(LossCause)},
            backend_rebuilds=first + 6,
            scheduling_delay=histogram.read(),
            finished_by_task={(task, result): first + 9 for task in ("send", "other") for result in Result},
            run_seconds_by_task={"send": first + 0.125, "other": 0.0},
            queued=first + 7,
            running=first + 8,
            state="stopped",
        )


@contextmanager
def made_up(registry: CollectorRegistry, pool: InstrumentedPool) -> Iterator[MadeUp]:
    """Export one more pool, whose numbers a test makes up."""
    source = MadeUp(replace(pool._engine.reader.snapshot(), pool="made_up"))
    source.grow()
    export = Export("made_up", source)
    collector_of(registry).exports.add(export)
    yield source
    collector_of(registry).exports.remove(export)


def work(make_pool: MakePool, clock: ManualClock, gate: BlockingTask) -> Iterator[InstrumentedPool]:
    """Use pools in every way, in steps; after each of these all is quiet. The first yields a pool."""
    orders = make_pool(2, name="orders", queue_capacity=1, clock=clock, slow_after=1.0, hung_after=4.0)
    yield orders
    orders.submit(clock.advance, 0.25).result(PATIENCE)
    orders.submit(clock.advance, 1.5).result(PATIENCE)
    orders.submit(divmod, 1, 0).exception(PATIENCE)
    yield orders
    orders.submit(exit).exception(PATIENCE)
    for _ in range(2):
        orders.submit(gate)
        gate.wait_started()
    orders.submit(len, "").cancel()
    orders.submit(len, "")
    with pytest.raises(PoolFullError):
        orders.submit(len, "")
    clock.advance(5.0)
    yield orders
    # A second and a third pool of that name, one of them stopped.
    stopped = make_pool(1, name="orders", clock=clock)
    stopped.submit(clock.advance, 0.5).result(PATIENCE)
    stopped.stop()
    with pytest.raises(PoolClosedError):
        stopped.submit(len, "")
    third = make_pool(1, name="orders", clock=clock)
    third.submit(len, "").result(PATIENCE)
    policy = BreakerPolicy(consecutive_failures=2)
    mail = make_pool(1, name="mail", clock=clock, breaker=policy, buckets=(0.5, 2.0), task_metrics=["len"])
    for _ in range(2):
        mail.submit(divmod, 1, 0).exception(PATIENCE)
    with pytest.raises(prodpool.BreakerOpenError):
        mail.submit(len, "")
    yield orders


@TEMPORALITIES
def test_the_numbers_of_a_scrape(
    make_pool: MakePool,
    registry: CollectorRegistry,
    gate: BlockingTask,
    preferred: dict[type, AggregationTemporality],
) -> None:
    """What arrives over OTLP equals a scrape at the same quiet moment, in every series of every metric."""
    steps = work(make_pool, ManualClock(), gate)
    with pushed(registry, preferred) as push, made_up(registry, next(steps)) as source:
        push.export()
        scraped: dict[Series, float] = {}
        for exports, _ in enumerate(steps, start=2):
            source.grow()
            push.export()
            scraped = series(registry)
            received_series = push.receiver.series()
            assert received_series.keys() == scraped.keys()
            assert of_the_pools(received_series) == of_the_pools(scraped)
            assert len(push.receiver.exports) == exports
        # Not all of them 0: of each metric some series of some pool is more.
        more = {name for (name, _), value in scraped.items() if value}
        histograms = {f"{name}_{ending}" for name in HISTOGRAMS for ending in ("bucket", "count", "sum")}
        assert more == {name for name, *_ in EXPECTED if name not in HISTOGRAMS} | histograms
        received = {
            Received.Name(getattr(metric, str(metric.WhichOneof("data"))).aggregation_temporality)
            for metric in push.receiver.metrics().values()
            if metric.WhichOneof("data") != "gauge"
        }
        assert received == {f"AGGREGATION_TEMPORALITY_{'DELTA' if preferred else 'CUMULATIVE'}"}


# Names

KINDS = {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}


def test_kinds_and_units(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A metric has its name and kind in Prometheus, and seconds are its unit if its name says so."""
    make_pool(task_metrics=["send"])
    with pushed(registry) as push:
        push.export()
        found = push.receiver.metrics()
    assert {name: (metric.WhichOneof("data"), metric.unit) for name, metric in found.items()} == {
        name: (KINDS[kind], "s" if "_seconds" in name else "") for name, kind, _, _ in EXPECTED
    }
    assert all(metric.description.endswith(".") for metric in found.values())
    assert all(metric.sum.is_monotonic for name, metric in found.items() if name.endswith("_total"))


def with_suffixes(name: str, kind: str, unit: str) -> str:
    """Name a metric as Prometheus does by default.

    Source: UnderscoreEscapingWithSuffixes of github.com/prometheus/otlptranslator, metric_namer.go
    """
    words = [word for word in name.split("_") if word]
    suffix = {"s": "seconds", "": ""}[unit]
    if suffix and suffix not in words:
        words.append(suffix)
    if kind == "counter":
        words = [word for word in words if word != "total"] + ["total"]
    return "_".join(words)


def unescaped_with_suffixes(name: str, kind: str, unit: str) -> str:
    """Name a metric as Prometheus does with NoUTF8EscapingWithSuffixes, of the same source."""
    suffix = {"s": "seconds", "": ""}[unit]
    name = name.removesuffix("_total") if kind == "counter" else name
    name = name if name.endswith(suffix) else f"{name}_{suffix}"
    return f"{name}_total" if kind == "counter" else name


@pytest.mark.parametrize(
    "translate",
    [with_suffixes, unescaped_with_suffixes, lambda name, _kind, _unit: name],
    ids=["with-suffixes", "unescaped-with-suffixes", "as-sent"],
)
@pytest.mark.parametrize(("name", "kind"), [each[:2] for each in EXPECTED])
def test_a_backend_has_the_names_of_prometheus(
    name: str, kind: str, translate: Callable[[str, str, str], str]
) -> None:
    """Whatever a backend makes of names and units, dashboards and alerts find what they ask for."""
    assert translate(name, kind, "s" if "_seconds" in name else "") == name


# Times


@TEMPORALITIES
def test_start_times(
    make_pool: MakePool, registry: CollectorRegistry, preferred: dict[type, AggregationTemporality]
) -> None:
    """Numbers count from the first pool of the name on, or from the export before."""
    make_pool(1)
    (reading,) = collector_of(registry).exports.readings()
    since = int(reading.since * NANOSECONDS)
    with pushed(registry, preferred) as push:
        for _ in range(3):
            push.export()
        times = []
        for export in push.receiver.exports:
            points = [p for metric in export.scope_metrics[0].metrics for p in points_of(metric)]
            (end,) = {point.time_unix_nano for point in points}
            (start,) = {point.start_time_unix_nano for point in points if point.start_time_unix_nano}
            times.append((start, end))
    ends = [end for _, end in times]
    assert ends == sorted(ends)
    assert [start for start, _ in times] == [since, *ends[:2]] if preferred else [since] * 3


def test_a_name_that_comes_back(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A name that is no longer exported and comes back begins a new series, in delta as well."""
    inner = ListExporter(preferred_temporality=ALL_DELTA)
    exporter = PoolMetricExporter(inner, registry=registry)
    for tasks in (3, 2):
        pool = make_pool(1, name="mail")
        for _ in range(tasks):
            pool.submit(len, "").result(PATIENCE)
        exporter.export(NOTHING)
        (reading,) = collector_of(registry).exports.readings()
        (point,) = inner.points("workerpool_submitted_total")
        assert (point.value, point.start_time_unix_nano) == (tasks, int(reading.since * NANOSECONDS))
        pool.close_metrics()


def test_a_clock_that_is_set_back(
    make_pool: MakePool, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No series starts after its end."""
    make_pool(1)
    exporter = PoolMetricExporter(inner := ListExporter(), registry=registry)
    monkeypatch.setattr("prodpool.telemetry.exporters.opentelemetry.time.time_ns", lambda: 1_000)
    exporter.export(NOTHING)
    (point,) = inner.points("workerpool_submitted_total")
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1_000, 1_000)


# Exports that fail


def test_what_was_refused_is_sent_with_the_next(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """The receiver's sum of deltas is right although it refused some."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    with pushed(registry, ALL_DELTA) as push:
        push.export()
        for seconds, refuses in ((0.5, True), (1.5, True), (2.5, False)):
            pool.submit(clock.advance, seconds).result(PATIENCE)
            push.receiver.refuses = refuses
            push.export()
        assert of_the_pools(push.receiver.series()) == of_the_pools(series(registry))
        first, second = (points_of(export.scope_metrics[0].metrics[0])[0] for export in push.receiver.exports)
        assert second.start_time_unix_nano == first.time_unix_nano


@pytest.mark.parametrize("answer", [MetricExportResult.FAILURE, OSError("no route")], ids=["fails", "raises"])
def test_a_name_that_went_with_a_failed_export(
    make_pool: MakePool, registry: CollectorRegistry, answer: MetricExportResult | Exception
) -> None:
    """What a pool counted before its metrics were closed is sent once, without gauges."""
    inner = ListExporter(preferred_temporality=ALL_DELTA)
    exporter = PoolMetricExporter(inner, registry=registry)
    pool = make_pool(1, name="mail")
    exporter.export(NOTHING)
    pool.submit(len, "").result(PATIENCE)
    for _ in range(2):
        inner.answers = [answer]
        if isinstance(answer, Exception):
            with pytest.raises(type(answer)):
                exporter.export(NOTHING)
        else:
            assert exporter.export(NOTHING) is answer
        pool.close_metrics()
    assert exporter.export(NOTHING) is MetricExportResult.SUCCESS
    (point,) = inner.points("workerpool_submitted_total")
    (histogram,) = inner.points("workerpool_task_duration_seconds")
    assert (point.value, histogram.count) == (1, 1)
    assert inner.points("workerpool_workers") == []
    sent = len(inner.given)
    exporter.export(NOTHING)
    assert len(inner.given) == sent


def test_a_name_that_went_and_came_back(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """What is left of the old series ends before the new one starts."""
    inner = ListExporter(preferred_temporality=ALL_DELTA)
    exporter = PoolMetricExporter(inner, registry=registry)
    for tasks, answer in ((3, MetricExportResult.FAILURE), (2, MetricExportResult.SUCCESS)):
        pool = make_pool(1, name="mail")
        for _ in range(tasks):
            pool.submit(len, "").result(PATIENCE)
        inner.answers = [answer]
        assert exporter.export(NOTHING) is answer
        pool.close_metrics()
    old, new = inner.points("workerpool_submitted_total")
    assert (old.value, new.value) == (3, 2)
    assert old.start_time_unix_nano <= old.time_unix_nano <= new.start_time_unix_nano


def test_a_cumulative_name_that_went(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A name that is no longer exported is not sent again: a total needs no repetition."""
    exporter = PoolMetricExporter(inner := ListExporter(), registry=registry)
    pool = make_pool(1, name="mail")
    make_pool(1, name="other")
    inner.answers = [MetricExportResult.FAILURE]
    exporter.export(NOTHING)
    pool.close_metrics()
    exporter.export(NOTHING)
    assert [each.attributes["pool"] for each in inner.points("workerpool_submitted_total")] == ["other"]


# Histograms


def test_buckets_that_change(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Deltas are counted by the bounds that both exports have: those of all pools of the name."""
    clock = ManualClock()
    inner = ListExporter(preferred_temporality=ALL_DELTA)
    exporter = PoolMetricExporter(inner, registry=registry)

    def exported() -> tuple[list[float], list[int], float]:
        exporter.export(NOTHING)
        (point,) = inner.points("workerpool_task_duration_seconds")
        assert point.count == sum(point.bucket_counts)
        return point.explicit_bounds, point.bucket_counts, point.sum

    first = make_pool(1, name="mail", clock=clock, buckets=(0.5, 1.0, 5.0))
    first.submit(clock.advance, 0.75).result(PATIENCE)
    assert exported() == ([0.5, 1.0, 5.0], [0, 1, 0, 0], 0.75)
    second = make_pool(1, name="mail", clock=clock, buckets=(1.0, 2.0, 5.0))
    first.submit(clock.advance, 8.0).result(PATIENCE)
    second.submit(clock.advance, 1.5).result(PATIENCE)
    assert exported() == ([1.0, 5.0], [0, 1, 1], 9.5)
    first.submit(clock.advance, 0.25).result(PATIENCE)
    assert exported() == ([1.0, 5.0], [1, 0, 0], 0.25)


def test_bounds_that_appear(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A bound that the export before did not have is left out of the delta."""
    inner = ListExporter(preferred_temporality=ALL_DELTA)
    exporter = PoolMetricExporter(inner, registry=registry)
    pool = make_pool(1, name="mail")
    with made_up(registry, pool) as source:
        few, many = PoolHistogram((1.0,)), PoolHistogram((0.5, 1.0))
        few.observe(0.25)
        for seconds in (0.25, 0.75, 3.0):
            many.observe(seconds)
        for histogram, expected in ((few, [1, 0]), (many, [1, 1])):
            source.now = replace(source.now, dwell=histogram.read())
            exporter.export(NOTHING)
            point = next(
                each
                for each in inner.points("workerpool_queue_dwell_seconds")
                if each.attributes["pool"] == "made_up"
            )
            assert (point.explicit_bounds, point.bucket_counts) == ([1.0], expected)


@pytest.mark.skipif(not hasattr(sdk, "Exemplar"), reason="the SDK has no exemplars before 1.28")
@TEMPORALITIES
def test_exemplars(
    make_pool: MakePool, registry: CollectorRegistry, preferred: dict[type, AggregationTemporality]
) -> None:
    """A bucket leads to the span of its newest task; a delta has only what is new."""
    spans, clock = Spans(), ManualClock()
    pool = make_pool(1, clock=clock, tracer_provider=spans.provider)

    def arrived(push: Pushed) -> list[tuple[float, bytes, bytes]]:
        push.export()
        metric = push.receiver.metrics()["workerpool_task_duration_seconds"]
        (point,) = metric.histogram.data_points
        assert all(each.time_unix_nano <= point.time_unix_nano for each in point.exemplars)
        return [(each.as_double, each.trace_id, each.span_id) for each in point.exemplars]

    def link(name: str, seconds: float) -> tuple[float, bytes, bytes]:
        context = context_of(spans.named(f"workerpool.task {name}"))
        return seconds, context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big")

    with pushed(registry, preferred) as push:
        pool.options(task="first").submit(clock.advance, 0.5).result(PATIENCE)
        pool.options(task="second").submit(clock.advance, 2.0).result(PATIENCE)
        first, second = link("first", 0.5), link("second", 2.0)
        assert arrived(push) == [first, second]
        pool.options(task="third").submit(clock.advance, 2.0).result(PATIENCE)
        third = link("third", 2.0)
        assert arrived(push) == ([third] if preferred else [first, third])


def test_no_least_and_no_greatest(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """They are absent, not 0: the pool does not keep them."""
    make_pool().submit(len, "").result(PATIENCE)
    with pushed(registry) as push:
        push.export()
        for name in HISTOGRAMS:
            (point,) = push.receiver.metrics()[name].histogram.data_points
            assert not point.HasField("min")
            assert not point.HasField("max")


# Beside the application's own metrics


def test_a_reader_without_an_instrument_exports_nothing() -> None:
    """The reason for the placeholder: the SDK calls no exporter then."""
    inner = ListExporter()
    with provider_of(inner) as provider:
        provider.force_flush()
    assert inner.given == []


def test_beside_the_applications_instruments(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """One resource holds the application's metrics, as they are, and those of the pools in their scope."""
    make_pool(task_metrics=["send"])
    with pushed(registry, ALL_DELTA) as push:
        counter = push.provider.get_meter("shop").create_counter("orders")
        for _ in range(2):
            counter.add(7)
            push.export()
        for resource in push.receiver.exports:
            assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
                "service.name": "shop"
            }
            assert sorted((each.scope.name, each.scope.version) for each in resource.scope_metrics) == [
                ("prodpool", prodpool.__version__),
                ("shop", ""),
            ]
        assert set(push.receiver.metrics()) == {name for name, *_ in EXPECTED}
        (point,) = push.receiver.metrics("shop")["orders"].sum.data_points
        assert point.as_int == 7


def test_without_a_pool(registry: CollectorRegistry) -> None:
    """While there is no pool, nothing is sent, and the application's metrics are not held up."""
    inner = ListExporter()
    with provider_of(PoolMetricExporter(inner, registry=registry)) as provider:
        provider.force_flush()
        assert inner.given == []
        provider.get_meter("shop").create_counter("orders").add(1)
        provider.force_flush()
    (resource,) = inner.given[0].resource_metrics
    assert [metric.name for scope in resource.scope_metrics for metric in scope.metrics] == ["orders"]


def test_two_registries(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Exporters may be put one around the other; a scope is there once."""
    other = CollectorRegistry()
    make_pool(1, name="first")
    make_pool(1, name="second", registry=other)
    inner = ListExporter()
    exporter = PoolMetricExporter(PoolMetricExporter(inner, registry=registry), registry=other)
    exporter.export(NOTHING)
    assert {each.attributes["pool"] for each in inner.points("workerpool_workers")} == {"first", "second"}
    assert len(inner.given[0].resource_metrics[0].scope_metrics) == 1


MIXED: dict[type, AggregationTemporality] = {Counter: DELTA, Histogram: DELTA, ObservableCounter: CUMULATIVE}


@pytest.mark.parametrize(
    ("of_exporter", "given", "expected"),
    [
        (None, None, (CUMULATIVE, CUMULATIVE)),
        (ALL_DELTA, None, (DELTA, DELTA)),
        (MIXED, None, (CUMULATIVE, DELTA)),
        (None, ALL_DELTA, (DELTA, DELTA)),
        (ALL_DELTA, {Histogram: CUMULATIVE}, (DELTA, CUMULATIVE)),
    ],
    ids=["none", "delta", "low-memory", "given", "given-in-part"],
)
def test_temporality(
    make_pool: MakePool,
    registry: CollectorRegistry,
    of_exporter: dict[type, AggregationTemporality] | None,
    given: dict[type, AggregationTemporality] | None,
    expected: tuple[AggregationTemporality, AggregationTemporality],
) -> None:
    """Pools have the temporality of the exporter or of the argument, and so have observable instruments."""
    pool = make_pool(1)
    inner = ListExporter(preferred_temporality=of_exporter)
    exporter = PoolMetricExporter(inner, registry=registry, preferred_temporality=given)
    with provider_of(exporter) as provider:
        meter = provider.get_meter("shop")
        meter.create_observable_counter("seen", [lambda _: [Observation(1)]])
        meter.create_histogram("took").record(1)
        pool.submit(len, "").result(PATIENCE)
        for _ in range(2):
            provider.force_flush()
    found = {
        metric.name: metric.data.aggregation_temporality
        for scope in inner.given[0].resource_metrics[0].scope_metrics
        for metric in scope.metrics
        if hasattr(metric.data, "aggregation_temporality")
    }
    names = ("workerpool_submitted_total", "seen", "workerpool_task_duration_seconds", "took")
    assert tuple(found[name] for name in names) == (expected[0], expected[0], expected[1], expected[1])
    (point,), (histogram,) = inner.points(names[0]), inner.points(names[2])
    assert (point.value, histogram.count) == tuple(int(each is CUMULATIVE) for each in expected)


def test_flush_and_shutdown_are_passed_on(registry: CollectorRegistry) -> None:
    """The exporter inside is flushed and shut down with the one around it."""
    exporter = PoolMetricExporter(inner := ListExporter(), registry=registry)
    assert exporter.force_flush(50)
    exporter.shutdown(timeout_millis=70)
    assert inner.calls == ["force_flush 50", "shutdown 70"]


@pytest.mark.parametrize("given", [None, OTLPMetricExporter, "http://localhost:4318"], ids=repr)
def test_no_exporter(given: Any) -> None:
    """What is no exporter is refused with its value and what would do."""
    with pytest.raises(TypeError, match="must be a MetricExporter, such as") as raised:
        PoolMetricExporter(given)
    assert f"exporter={given!r}" in str(raised.value)


def test_no_registry() -> None:
    """What is no registry is refused likewise."""
    given: Any = "metrics"
    with pytest.raises(TypeError, match="registry='metrics' has no register"):
        PoolMetricExporter(ConsoleMetricExporter(), registry=given)


# In other processes

FORK = """
import sys
from concurrent.futures import ThreadPoolExecutor
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData
from prodpool import InstrumentedPool
from prodpool.opentelemetry import PoolMetricExporter
from tests.process.programs.forking import c_forked, forked, wait_for
from tests.telemetry.collector import ListExporter
from tests.telemetry.test_opentelemetry import ALL_DELTA

def pools(expected):
    inner.given.clear()
    assert exporter.export(MetricsData([])) is MetricExportResult.SUCCESS
    points = inner.points("workerpool_submitted_total") if inner.given else []
    found = [(point.attributes["pool"], point.value) for point in points]
    assert found == expected, found

def in_the_child():
    pools([])
    child = InstrumentedPool(ThreadPoolExecutor(1), name="parent")
    for _ in range(5):
        child.submit(int).result()
    pools([("parent", 5)])

inner = ListExporter(preferred_temporality=ALL_DELTA)
exporter = PoolMetricExporter(inner)
pool = InstrumentedPool(ThreadPoolExecutor(1), name="parent")
pool.submit(int).result()
pools([("parent", 1)])
pool.submit(int).result()
# One that has not arrived: the parent will send it, and the child must not.
inner.answers = [MetricExportResult.FAILURE]
exporter.export(MetricsData([]))
wait_for({"python": forked, "c": c_forked}[sys.argv[1]](in_the_child))
pools([("parent", 1)])
pool.stop()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere no fork in C is noticed")
@pytest.mark.parametrize("fork", ["python", "c"])
def test_a_forked_child_exports_its_own_pools(fork: str) -> None:
    """A child exports no pool of its parent and nothing that the parent has still to send."""
    done = subprocess.run(
        [sys.executable, "-c", FORK, fork], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


GLOBAL = """
from concurrent.futures import ThreadPoolExecutor
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from prodpool import InstrumentedPool
from prodpool.opentelemetry import PoolMetricExporter
from tests.telemetry.collector import ListExporter

first, second = ListExporter(), ListExporter()
exporters = [PoolMetricExporter(first)]
provider = MeterProvider([PeriodicExportingMetricReader(e) for e in (*exporters, PoolMetricExporter(second))])
metrics.set_meter_provider(provider)
PoolMetricExporter(first)
with InstrumentedPool(ThreadPoolExecutor(1), name="orders") as pool:
    pool.submit(int).result()
provider.shutdown()
for each in (first, second):
    (point,) = each.points("workerpool_submitted_total")
    assert point.value == 1
    assert each.points("prodpool.placeholder") == []
"""


def test_the_global_provider() -> None:
    """With the global provider, set before or after, an application without an instrument needs no more."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", GLOBAL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
