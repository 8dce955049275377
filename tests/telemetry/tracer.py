"""A tracer provider whose spans a test can look at."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


class Kept(SpanExporter):
    """Keeps the spans that have ended, and lets a test wait for one."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []
        self.changed = threading.Condition(threading.RLock())  # guards spans

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self.changed:
            self.spans.extend(spans)
            self.changed.notify_all()
        return SpanExportResult.SUCCESS


class Spans:
    """A real SDK provider that keeps the spans that have ended."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, *processors: SpanProcessor) -> None:
        self._kept = Kept()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        for processor in processors:
            self.provider.add_span_processor(processor)
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = self.provider.get_tracer("test")

    @property
    def ended(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended, in the order of their ends."""
        with self._kept.changed:
            return tuple(self._kept.spans)

    @property
    def names(self) -> list[str]:
        """The names of all spans that have ended, sorted."""
        return sorted(span.name for span in self.ended)

    def named(self, name: str) -> ReadableSpan:
        """Return the only span of that name, as soon as it has ended: shortly after its task."""
        self.wait_for(name)
        found = [span for span in self.ended if span.name == name]
        assert len(found) == 1, f"{len(found)} spans are called {name!r}; there are {self.names}"
        return found[0]

    def wait_for(self, *names: str, timeout: float = 20.0) -> None:
        """Return as soon as there is a span of each of these names; fail if there never is."""
        with self._kept.changed:
            there = self._kept.changed.wait_for(
                lambda: set(names) <= {span.name for span in self._kept.spans}, timeout
            )
            assert there, f"no spans {names} within {timeout} s; there are {self.names}"


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
