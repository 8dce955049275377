"""What the application has around its tasks, and the context that they see, over every backend."""

from __future__ import annotations

import contextvars
import logging
import os
import subprocess
import sys
import threading

import pytest
import structlog
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, Result
from tests.backends import around_work as work
from tests.backends.conftest import PATIENCE, MakePool
from tests.support import ROOT

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]

PARENT = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
IN_THIS_PROCESS = {"threads", "other"}


def test_a_task_runs_inside(make_pool: MakePool) -> None:
    """Each task is inside a context manager of its own, which knows the task, as does the log."""
    pool = make_pool(1, around=work.around, slow_after=0.0)
    assert pool.submit(work.seen).result(PATIENCE) == "seen"
    assert pool.options(task="look").submit(work.seen).result(PATIENCE) == "look"
    make_pool.logs.wait_for("task.slow", count=2)
    assert [entry["task"] for entry in make_pool.logs.named("task.slow")] == ["seen", "look"]


@pytest.mark.parametrize("broken", ["fails_to_enter", "fails_to_leave", "returns_nothing", "interrupted"])
def test_its_errors_are_not_the_tasks(
    make_pool: MakePool, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """They are counted, the first is reported with its stack, and results and errors are what they are."""
    pool = make_pool(1, around=getattr(work, broken))
    with caplog.at_level(logging.ERROR, "prodpool"):
        assert pool.submit(abs, -7).result(PATIENCE) == 7
        with pytest.raises(LookupError, match="lost"):
            pool.submit(work.looks_up, "lost").result(PATIENCE)
        assert pool.stop().drained
    counted = registry.get_sample_value(
        "workerpool_telemetry_errors_total", {"pool": pool.name, "sink": "around"}
    )
    assert counted == 2
    (report,) = [record.getMessage() for record in caplog.records if "sink=around" in record.getMessage()]
    assert ("context manager protocol" if broken == "returns_nothing" else f"in {broken}\n") in report
    completed = pool.stats().completed
    assert (completed[Result.OK], completed[Result.ERROR]) == (1, 1)


def test_it_cannot_swallow_the_tasks_error(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """It is shown the error, and the task has failed all the same."""
    pool = make_pool(1, around=work.Swallows)
    with pytest.raises(LookupError, match="lost"):
        pool.submit(work.looks_up, "lost").result(PATIENCE)
    labels = {"pool": pool.name, "sink": "around"}
    assert registry.get_sample_value("workerpool_telemetry_errors_total", labels) == 0


@pytest.mark.parametrize(
    "kind",
    ["forkserver", *(pytest.param(kind, marks=pytest.mark.once) for kind in ("handed", "dask"))],
    indirect=True,
)
def test_one_that_cannot_be_sent(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """The constructor says so; no task has to fail first."""
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"around=.* cannot be sent to worker processes .*importable module"):
        make_pool(1, around=lambda: lock)


def test_what_travels_with_a_task(make_pool: MakePool) -> None:
    """Trace and baggage travel by OpenTelemetry's propagator, without an SDK; of structlog what is named."""
    pool = make_pool(1, context_vars=["structlog.contextvars:request_id"])
    baggage_here, bound, trace_id = contextvars.copy_context().run(_submit_in_a_request, pool)
    assert baggage_here == {"tenant": "acme"}
    assert trace_id == PARENT.trace_id
    all_of_it = {"request_id": "r-1", "unasked": 1}
    assert bound == (all_of_it if make_pool.kind in IN_THIS_PROCESS else {"request_id": "r-1"})
    # What was set for one task is not there for the next.
    assert contextvars.Context().run(pool.submit, work.context).result(PATIENCE) == ({}, {}, 0)


def test_an_empty_context(make_pool: MakePool) -> None:
    """A task sees the trace, its baggage and the variables that are named, over every backend alike."""
    names = ["structlog.contextvars:*"]
    pool = make_pool(1, context="empty", context_vars=names)
    token = work.inside.set("the request")
    try:
        baggage_here, bound, trace_id = contextvars.copy_context().run(_submit_in_a_request, pool)
        assert (baggage_here, trace_id) == ({"tenant": "acme"}, PARENT.trace_id)
        assert bound == {"request_id": "r-1", "unasked": 1}
        assert pool.submit(work.seen).result(PATIENCE) == "nothing"
    finally:
        work.inside.reset(token)


@pytest.mark.parametrize("task", ["seen", "sets_and_sees"])
def test_what_is_set_stays_with_the_task(make_pool: MakePool, task: str) -> None:
    """Neither what a task sets nor what is set around it is there for the next one, in whatever process."""
    pool = make_pool(1, around=work.leaks)
    seen = [pool.submit(getattr(work, task)).result(PATIENCE) for _ in range(3)]
    assert seen == ["nothing+"] * 3


@pytest.mark.parametrize("kind", ["forkserver", "handed"], indirect=True)
@pytest.mark.parametrize("value", ["value", 7, threading.Lock()], ids=["reads", "writes-int", "writes-lock"])
def test_a_propagator_that_fails(
    make_pool: MakePool, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """Its error is counted and reported; the task runs, without what did not travel."""
    monkeypatch.setattr(propagate, "propagators", work.BadPropagator(value))
    pool = make_pool(1)
    pool.submit(work.install_bad_propagator).result(PATIENCE)
    context = contextvars.copy_context()
    context.run(otel_context.attach, baggage.set_baggage("tenant", "acme"))
    assert context.run(pool.submit, abs, -7).result(PATIENCE) == 7
    labels = {"pool": pool.name, "sink": "trace"}
    assert registry.get_sample_value("workerpool_telemetry_errors_total", labels) == 1


UNKNOWN_PROPAGATOR = """
from opentelemetry import baggage, context
from prometheus_client import REGISTRY
from prodpool import InstrumentedPool
from tests.backends.test_local_calls import Pickling

context.attach(baggage.set_baggage("tenant", "acme"))
with InstrumentedPool(Pickling(1), name="test") as pool:
    print([pool.submit(abs, -number).result() for number in range(3)])
labels = {"pool": "test", "sink": "trace"}
print(REGISTRY.get_sample_value("workerpool_telemetry_errors_total", labels))
"""


@pytest.mark.once
def test_a_propagator_that_is_not_installed() -> None:
    """It does not keep prodpool from being imported; it is reported once, and W3C trace context travels."""
    environment = {**os.environ, "OTEL_PROPAGATORS": "unheard_of"}
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN_PROPAGATOR],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "[0, 1, 2]\n1.0\n"


def _submit_in_a_request(pool: InstrumentedPool) -> tuple[object, object, int]:
    structlog.contextvars.bind_contextvars(request_id="r-1", unasked=1)
    current = trace.set_span_in_context(NonRecordingSpan(PARENT))
    otel_context.attach(baggage.set_baggage("tenant", "acme", current))
    found: tuple[object, object, int] = pool.submit(work.context).result(PATIENCE)
    return found
