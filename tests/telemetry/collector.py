"""Receivers of spans and metrics as a backend has them: OTLP over HTTP, on loopback."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
)
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from prometheus_client.utils import floatToGoString

from tests.telemetry.scraping import Series


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it arrived; ids are hexadecimal, ``parent`` is empty for a root."""

    service: str
    name: str
    trace: str
    span: str
    parent: str


class Receiver:
    """Keeps what arrives, and lets a test wait for it."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self._changed = threading.Condition()  # guards spans

    def take(self, body: bytes) -> HTTPStatus:
        """Take in one export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            for resource in request.resource_spans:
                of = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                        self.spans.append(Received(of["service.name"], span.name, *ids))
            self._changed.notify_all()
        return HTTPStatus.OK

    def wait_for(self, *names: str, timeout: float = 20.0) -> dict[str, Received]:
        """Return the spans of these names as soon as all have arrived; there must be no other."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.spans) >= len(names), timeout)
            assert sorted(span.name for span in self.spans) == sorted(names)
            return {span.name: span for span in self.spans}


class MetricReceiver:
    """Keeps the metrics that arrive. It refuses them while ``refuses`` is set."""

    def __init__(self) -> None:
        self.exports: list[ResourceMetrics] = []
        self.refuses = False

    def take(self, body: bytes) -> HTTPStatus:
        """Take in one export; a refusal is one that exporters do not repeat."""
        if self.refuses:
            return HTTPStatus.BAD_REQUEST
        (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
        self.exports.append(resource)
        return HTTPStatus.OK

    def metrics(self, scope: str = "prodpool") -> dict[str, Metric]:
        """Return the metrics of the last export by name; a name or a scope must be there once."""
        (of_scope,) = [each for each in self.exports[-1].scope_metrics if each.scope.name == scope]
        found = {metric.name: metric for metric in of_scope.metrics}
        assert len(found) == len(of_scope.metrics)
        return found

    def series(self) -> dict[Series, float]:
        """Return what a backend of Prometheus's kind makes of all exports, as `scraping.series` has it."""
        found: dict[Series, float] = {}
        for export in self.exports:
            for scope in export.scope_metrics:
                for metric in scope.metrics:
                    is_sum = _temporality(metric) == AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
                    for series, value in _samples(metric):
                        found[series] = value + (found.get(series, 0.0) if is_sum else 0.0)
        return found


class ListExporter(MetricExporter):
    """An exporter that keeps what it is given, and answers or raises what the test says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given: list[MetricsData] = []
        self.answers: list[MetricExportResult | Exception] = []
        self.calls: list[str] = []

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        self.given.append(metrics_data)
        answer = self.answers.pop(0) if self.answers else MetricExportResult.SUCCESS
        if isinstance(answer, Exception):
            raise answer
        return answer

    def force_flush(self, timeout_millis: float = 0) -> bool:
        self.calls.append(f"force_flush {timeout_millis}")
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        self.calls.append(f"shutdown {timeout_millis}")

    def points(self, name: str) -> list[Any]:
        """Return the points of a metric in the last export, none if it is not there."""
        (resource,) = self.given[-1].resource_metrics
        found = [metric for scope in resource.scope_metrics for metric in scope.metrics]
        return [point for metric in found if metric.name == name for point in metric.data.data_points]


def points_of(metric: Metric) -> list[NumberDataPoint | HistogramDataPoint]:
    """Return the points of a metric of whatever kind."""
    return list(getattr(metric, str(metric.WhichOneof("data"))).data_points)


def _temporality(metric: Metric) -> int | None:
    kind = metric.WhichOneof("data")
    return None if kind == "gauge" else int(getattr(metric, str(kind)).aggregation_temporality)


def _samples(metric: Metric) -> Iterator[tuple[Series, float]]:
    for point in points_of(metric):
        labels = {each.key: each.value.string_value for each in point.attributes}
        if isinstance(point, NumberDataPoint):
            yield (metric.name, frozenset(labels.items())), point.as_double
            continue
        up_to = 0
        for bound, count in zip((*point.explicit_bounds, float("inf")), point.bucket_counts, strict=True):
            up_to += count
            le = floatToGoString(bound)  # type: ignore[no-untyped-call]
            yield (f"{metric.name}_bucket", frozenset({**labels, "le": le}.items())), up_to
        assert up_to == point.count
        yield (f"{metric.name}_count", frozenset(labels.items())), point.count
        yield (f"{metric.name}_sum", frozenset(labels.items())), point.sum


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """Run a receiver of spans; yields it and the address that exporters are to send to."""
    receiver = Receiver()
    with _serving(receiver.take) as address:
        yield receiver, f"{address}/v1/traces"


@contextmanager
def receiving_metrics() -> Iterator[tuple[MetricReceiver, str]]:
    """Run a receiver of metrics; yields it and the address that exporters are to send to."""
    receiver = MetricReceiver()
    with _serving(receiver.take) as address:
        yield receiver, f"{address}/v1/metrics"


@contextmanager
def _serving(take: Callable[[bytes], HTTPStatus]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            self.send_response(take(gzip.decompress(body) if packed else body))
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
