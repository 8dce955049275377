"""Exemplars: the way from a histogram's bucket to the trace of a task in it."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from prometheus_client import CollectorRegistry, generate_latest

from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool
from tests.telemetry.scraping import openmetrics_families
from tests.telemetry.tracer import Spans, context_of

DWELL, DURATION = "workerpool_queue_dwell_seconds", "workerpool_task_duration_seconds"


def exemplars(registry: CollectorRegistry, name: str) -> dict[str, tuple[dict[str, str], float]]:
    """Return, by bucket, the labels and the value of the exemplars of a histogram."""
    return {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value)
        for sample in openmetrics_families(registry)[name].samples
        if sample.exemplar is not None
    }


def trace_id(spans: Spans, name: str) -> dict[str, str]:
    return {"trace_id": trace.format_trace_id(context_of(spans.named(name)).trace_id)}


def test_exemplars(make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask) -> None:
    """A sampled task leaves its trace id in the bucket of its dwell and in that of its duration."""
    spans, clock = Spans(), ManualClock()
    pool = make_pool(1, clock=clock, tracer_provider=spans.provider)
    pool.options(task="first").submit(gate)
    gate.wait_started()
    future = pool.options(task="second").submit(clock.advance, 7.0)
    clock.advance(0.02)
    gate.release()
    future.result(PATIENCE)
    assert exemplars(registry, DURATION) == {
        "0.025": (trace_id(spans, "workerpool.task first"), pytest.approx(0.02)),
        "10.0": (trace_id(spans, "workerpool.task second"), pytest.approx(7.0)),
    }
    assert exemplars(registry, DWELL) == {
        "0.001": (trace_id(spans, "workerpool.task first"), 0.0),
        "0.025": (trace_id(spans, "workerpool.task second"), pytest.approx(0.02)),
    }


def test_the_latest_of_a_bucket_wins(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A bucket shows the trace of the last sampled task in it, a failed one as well."""
    spans = Spans()
    pool = make_pool(1, clock=ManualClock(), tracer_provider=spans.provider)
    pool.options(task="first").submit(bool).result(PATIENCE)
    pool.options(task="last").submit(divmod, 1, 0).exception(PATIENCE)
    assert exemplars(registry, DURATION) == {"0.001": (trace_id(spans, "workerpool.task last"), 0.0)}


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, None], ids=["unsampled", "untraced"])
def test_no_exemplars(make_pool: MakePool, registry: CollectorRegistry, sampler: Sampler | None) -> None:
    """A task that was not sampled, or not traced at all, leaves no exemplar: its link would lead nowhere."""
    pool = make_pool(1, tracer_provider=None if sampler is None else Spans(sampler).provider)
    pool.submit(bool).result(PATIENCE)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    assert exemplars(registry, DURATION) == {}


def test_within_the_standard(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Exemplars stay below the 128 characters that OpenMetrics allows, and out of the plain format."""
    pool = make_pool(1, tracer_provider=Spans(ALWAYS_ON).provider)
    pool.options(task="x" * 200).submit(bool).result(PATIENCE)
    for labels, _ in exemplars(registry, DURATION).values():
        assert sum(map(len, [*labels, *labels.values()])) <= 128
    assert b"trace_id" not in generate_latest(registry)
