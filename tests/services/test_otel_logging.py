"""OpenTelemetry's LoggingInstrumentor puts the trace of a task into the lines about it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

PROGRAM = """
import logging
import threading
import time

from opentelemetry import trace
from opentelemetry.instrumentation.logging import LoggingInstrumentor
from opentelemetry.sdk.trace import TracerProvider

import prodpool

trace.set_tracer_provider(TracerProvider())
LoggingInstrumentor().instrument(
    set_logging_format=True, logging_format="%(message)s trace=%(otelTraceID)s"
)
logging.getLogger().setLevel(logging.INFO)
pool = prodpool.threads(
    name="orders", max_workers=3, slow_after=0.0, hung_after=0.05, drain_deadline=0.5
)


def fail():
    raise LookupError


with trace.get_tracer("test").start_as_current_span("request") as span:
    print(trace.format_trace_id(span.get_span_context().trace_id), flush=True)
    pool.submit(bool)
    pool.submit(fail)
    pool.submit(threading.Event().wait)
while not pool.stats().hung:
    time.sleep(0.01)
pool.stop()
"""


def test_lines_about_a_task() -> None:
    """Each of them has the trace of the request; those about the pool have none."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    trace_id = done.stdout.strip()
    # A line with a stack goes over several, and has its trace at the end of the last.
    lines = done.stderr.replace("\n", " ").split(" trace=")
    found: dict[str, set[str]] = {}
    for line, following in pairwise(lines):
        event = next(word for word in line.split() if word.startswith(("task.", "pool.")))
        found.setdefault(event, set()).add(following.split()[0])
    about_tasks = {event: traces for event, traces in found.items() if event.startswith("task.")}
    assert about_tasks.keys() >= {"task.slow", "task.error", "task.still_running", "task.abandoned"}
    assert set().union(*about_tasks.values()) == {trace_id}
    assert found["pool.created"] == found["pool.stopped"] == {"0"}
