"""Names and errors from outside reach logs, spans, dumps, errors and representations printable and short."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from typing import Any, NoReturn

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolBrokenError, UnpicklableError
from prodpool.text import LONGEST_NAME
from tests.helpers.waiting import PATIENCE, until
from tests.support import Logs, MakePool

EVIL = "job\npool.stopped pool=forged\x1b[2J" + "x" * 1_000_000
CLEAN = "job\\npool.stopped pool=forged\\x1b[2J"
EvilError = type(EVIL, (Exception,), {})


def fail() -> NoReturn:
    raise EvilError(EVIL)


fail.__qualname__ = EVIL


def is_clean(value: object, most: int = 10_000) -> bool:
    text = str(value)
    return len(text) <= most and all(line.isprintable() for line in text.split("\n"))


def test_logs(make_pool: MakePool, logs: Logs) -> None:
    """A callable's own name, an exception's type and its text forge no line and reach no terminal."""
    pool = make_pool(1)
    future = pool.submit(fail)
    assert type(future.exception(PATIENCE)) is EvilError
    line = logs.wait_for("task.error")
    for key in ("task", "error"):
        assert (line[key][: len(CLEAN)], len(line[key])) == (CLEAN, LONGEST_NAME)
    assert is_clean(line["stack"])
    assert "in fail" in line["stack"]
    assert is_clean(repr(future), 300)
    assert "\n" not in repr(future)


def test_callback(make_pool: MakePool, logs: Logs) -> None:
    """So with a done-callback that fails."""

    def call_back(_: Future[Any]) -> NoReturn:
        fail()

    call_back.__qualname__ = EVIL
    go = threading.Event()
    future = make_pool(1).submit(go.wait, PATIENCE)
    future.add_done_callback(call_back)
    go.set()
    line = logs.wait_for("task.callback_error")
    assert line["callback"].startswith(CLEAN)
    assert all(is_clean(value) for value in line.values())


class EvilValue:
    """A value that does not pickle and says a lot about it."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(EVIL)


EvilValue.__qualname__ = EVIL


def evil_value() -> EvilValue:
    return EvilValue()


def fail_remotely() -> NoReturn:
    raise ValueError(EVIL)


def test_worker_process(registry: CollectorRegistry, logs: Logs) -> None:
    """So with what comes from a worker process: stacks, and errors about values that do not travel."""
    backend = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with InstrumentedPool(backend, name="evil", registry=registry, logger=logs.logger) as pool:
        assert type(pool.submit(fail_remotely).exception(PATIENCE)) is ValueError
        stack = logs.wait_for("task.error")["stack"]
        assert is_clean(stack)
        assert "in fail_remotely" in stack
        for future in (pool.submit(evil_value), pool.submit(id, EvilValue())):
            error = future.exception(PATIENCE)
            assert type(error) is UnpicklableError
            assert is_clean(error, 1500)
            assert "\n" not in str(error)
    pool.close_metrics()


def test_spans(make_pool: MakePool) -> None:
    """So with the names, the status and the event of a span."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    pool = make_pool(1, tracer_provider=provider)
    assert pool.submit(fail).exception(PATIENCE) is not None
    until(lambda: [span for span in exporter.get_finished_spans() if span.events])
    (span,) = [span for span in exporter.get_finished_spans() if span.name.startswith("workerpool.task")]
    assert span.name.startswith(f"workerpool.task {CLEAN}")
    texts = [span.name, span.status.description, *(span.attributes or {}).values()]
    texts += [value for event in span.events for value in (event.attributes or {}).values()]
    assert [text for text in texts if not is_clean(text)] == []
    provider.shutdown()


def test_dump_and_report(make_pool: MakePool) -> None:
    """So with what `dump` and a stop's report say."""

    def hang() -> None:
        began.set()
        go.wait(PATIENCE)

    hang.__qualname__ = EVIL
    began, go = threading.Event(), threading.Event()
    pool = make_pool(1)
    pool.submit(hang)
    assert began.wait(PATIENCE)
    assert is_clean(pool.dump())
    assert CLEAN in pool.dump()
    (name,) = pool.stop(0.01).abandoned
    assert (name[: len(CLEAN)], len(name)) == (CLEAN, LONGEST_NAME)
    go.set()


class EvilBackend:
    """A backend that breaks at once, with much to say."""

    def submit(self, *_: object) -> NoReturn:
        raise BrokenExecutor(EVIL)


def test_backend(registry: CollectorRegistry, logs: Logs) -> None:
    """So with what a backend is called and raises: the label, the log line and the error of a submit."""
    backend = type(EVIL, (EvilBackend,), {})()
    pool = InstrumentedPool(backend, name="evil", max_workers=1, registry=registry, logger=logs.logger)
    future = pool.submit(int)
    assert is_clean(future.exception(PATIENCE), 1000)
    line = logs.wait_for("pool.backend_broken")
    assert is_clean(line["error"], 600)
    assert "\n" not in line["error"]
    with pytest.raises(PoolBrokenError) as caught:
        pool.submit(int)
    assert is_clean(caught.value, 1000)
    assert "\n" not in str(caught.value)
    assert logs.named("pool.created")[0]["backend"].startswith(CLEAN)
    pool.stop(PATIENCE)
    pool.close_metrics()
