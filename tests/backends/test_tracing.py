"""One trace from the span that submits to a span opened inside the task, in whatever process that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import loky
import pytest
from distributed import Client, LocalCluster
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from tests.backends import tracing_work as work
from tests.backends.conftest import PATIENCE, PROCESSES
from tests.helpers.waiting import until
from tests.telemetry.collector import receiving
from tests.telemetry.tracer import Spans, context_of, is_child

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

REQUEST, QUEUE, TASK, NESTED = "request", "workerpool.queue render", "workerpool.task render", "nested"
once = [pytest.param(kind, marks=pytest.mark.once) for kind in ("loky", "dask")]
over_processes = pytest.mark.parametrize("kind", [*PROCESSES, *once])


@contextmanager
def processes(kind: str, initializer: Any, *initargs: Any) -> Iterator[Executor]:
    """Give an executor with one worker process, in which ``initializer`` has been called."""
    if kind == "dask":
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            client.wait_for_workers(1)
            client.run(initializer, *initargs)
            yield client.get_executor()
            client.run(work.flush)
    elif kind == "loky":
        yield loky.ProcessPoolExecutor(1, initializer=initializer, initargs=initargs)
    else:
        context = get_context(kind)
        yield ProcessPoolExecutor(1, context, initializer=initializer, initargs=initargs)


def submit_inside(tracer: trace.Tracer, pool: InstrumentedPool, call: Any) -> int:
    """Have ``call`` wait in the queue for long enough to have a span of its wait, inside a request."""
    pool.pause()
    with tracer.start_as_current_span(REQUEST):
        future = pool.options(task="render").submit(call)
        until(lambda: pool.stats().oldest_queued > 0.002)
        pool.resume()
        pid: int = future.result(PATIENCE)
    return pid


def test_one_trace_over_threads(registry: CollectorRegistry) -> None:
    """Request, queue, task and the span inside the task are one trace, each the child of the right one."""
    spans = Spans()

    def nested() -> int:
        with spans.provider.get_tracer("library").start_as_current_span(NESTED):
            return os.getpid()

    backend = ThreadPoolExecutor(1)
    with InstrumentedPool(backend, name="t", registry=registry, tracer_provider=spans.provider) as pool:
        submit_inside(spans.tracer, pool, nested)
    assert spans.names == sorted([REQUEST, QUEUE, TASK, NESTED])
    assert is_child(spans.named(QUEUE), spans.named(REQUEST))
    assert is_child(spans.named(TASK), spans.named(REQUEST))
    assert is_child(spans.named(NESTED), spans.named(TASK))


@over_processes
def test_one_trace_over_processes(kind: str, registry: CollectorRegistry) -> None:
    """The same, where the span inside the task is opened and exported by the worker process."""
    spans = Spans()
    with (
        processes(kind, work.export_to_memory) as backend,
        InstrumentedPool(backend, name="t", registry=registry, tracer_provider=spans.provider) as pool,
    ):
        pid = submit_inside(spans.tracer, pool, work.nested)
        (nested,) = pool.options(task="look").submit(work.kept).result(PATIENCE)
    assert (nested.name, nested.pid) == (NESTED, pid)
    assert pid != os.getpid()
    task = context_of(spans.named(TASK))
    assert nested.trace == trace.format_trace_id(task.trace_id)
    assert nested.parent == trace.format_span_id(task.span_id)
    assert is_child(spans.named(QUEUE), spans.named(REQUEST))
    assert is_child(spans.named(TASK), spans.named(REQUEST))


@over_processes
def test_the_trace_as_it_arrives(kind: str, registry: CollectorRegistry) -> None:
    """A tracing backend gets it from both processes, the worker's last spans when that ends."""
    with receiving() as (receiver, endpoint):
        provider = TracerProvider(resource=Resource.create({"service.name": "web"}), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        with (
            processes(kind, work.export_to, endpoint) as backend,
            InstrumentedPool(backend, name="t", registry=registry, tracer_provider=provider) as pool,
        ):
            submit_inside(provider.get_tracer("web"), pool, work.nested)
        provider.shutdown()
        got = receiver.wait_for(REQUEST, QUEUE, TASK, NESTED, timeout=PATIENCE)
    assert len({span.trace for span in got.values()}) == 1
    assert {name: span.parent for name, span in got.items()} == {
        REQUEST: "",
        QUEUE: got[REQUEST].span,
        TASK: got[REQUEST].span,
        NESTED: got[TASK].span,
    }
    assert {span.name: span.service for span in receiver.spans} == {
        REQUEST: "web",
        QUEUE: "web",
        TASK: "web",
        NESTED: "worker",
    }
