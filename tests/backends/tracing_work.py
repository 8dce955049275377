"""What the tests of traces run in worker processes: the initializers, and a task with a span of its own."""

from __future__ import annotations

import os
from multiprocessing.util import Finalize
from typing import NamedTuple

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

_in_memory = InMemorySpanExporter()


class Ids(NamedTuple):
    """A span, as hexadecimal ids; ``parent`` is empty for a root."""

    name: str
    trace: str
    span: str
    parent: str
    pid: int


def export_to(endpoint: str) -> None:
    """Have this process's spans sent, the last of them when it ends."""
    provider = TracerProvider(resource=Resource.create({"service.name": "worker"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    trace.set_tracer_provider(provider)
    Finalize(None, provider.shutdown, exitpriority=10)


def flush() -> None:
    """Send what is left to be sent."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.force_flush()


def export_to_memory() -> None:
    """Have this process keep its spans."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_in_memory))
    trace.set_tracer_provider(provider)


def nested() -> int:
    """Open a span, as a library called by a task does."""
    with trace.get_tracer("library").start_as_current_span("nested"):
        return os.getpid()


def kept() -> list[Ids]:
    """Return the spans that this process has kept."""
    return [
        Ids(
            span.name,
            trace.format_trace_id(span.context.trace_id),
            trace.format_span_id(span.context.span_id),
            "" if span.parent is None else trace.format_span_id(span.parent.span_id),
            os.getpid(),
        )
        for span in _in_memory.get_finished_spans()
        if span.context is not None
    ]
