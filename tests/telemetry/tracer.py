"""A tracer provider whose spans a test can look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


class Spans:
    """A real SDK provider that keeps the spans that have ended."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *processors: SpanProcessor) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        for processor in processors:
            self.provider.add_span_processor(processor)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("test")

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended, in the order of their ends."""
        return self._exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        """The names of all spans that have ended, sorted."""
        return sorted(span.name for span in self.ended)

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of that name."""
        found = [span for span in self.ended if span.name == name]
        assert len(found) == 1, f"{len(found)} spans are called {name!r}; there are {self.names}"
        return found[0]


def context_of(span: ReadableSpan) -> Any:
    """Return the span's context, which the SDK types as optional and never leaves out."""
    assert span.context is not None
    return span.context


def is_child(child: ReadableSpan, parent: ReadableSpan) -> bool:
    """Tell whether one span is the child of the other, in its trace."""
    return (
        child.parent is not None
        and child.parent.span_id == context_of(parent).span_id
        and context_of(child).trace_id == context_of(parent).trace_id
    )


def attributes_of(span: ReadableSpan) -> Mapping[str, Any]:
    """Return the span's attributes as a plain dict."""
    return dict(span.attributes or {})
