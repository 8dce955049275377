"""Pools of one name: their numbers are added up, and a counter of a name never goes down."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest

from prodpool import BreakerPolicy, InstrumentedPool, PoolClosedError
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until_collected
from tests.support import MakePool
from tests.telemetry.scraping import families, openmetrics_families, series, value


def handle_request(registry: CollectorRegistry, tasks: int) -> None:
    """Do what a request handler does that has an executor of its own."""
    with InstrumentedPool(ThreadPoolExecutor(2), name="fanout", registry=registry) as pool:
        assert len(list(pool.map(abs, range(tasks)))) == tasks


def test_a_pool_per_request(registry: CollectorRegistry) -> None:
    """All tasks are counted, whether or not a scrape came in between, and the series never go down."""
    seen = []
    for scraped in (True, False, True, True, False):
        handle_request(registry, 10)
        if scraped:
            seen.append(value(registry, "workerpool_submitted_total", pool="fanout"))
    gc.collect()
    seen.append(value(registry, "workerpool_submitted_total", pool="fanout"))
    assert seen == [10, 30, 40, 50]
    for name in ("workerpool_queue_dwell_seconds_count", "workerpool_task_duration_seconds_count"):
        assert value(registry, name, pool="fanout") == 50
    assert value(registry, "workerpool_completed_total", pool="fanout", result="ok") == 50
    assert value(registry, "workerpool_stopped", pool="fanout") == 1


def test_requests_at_once(registry: CollectorRegistry) -> None:
    """Pools of one name come and go in several threads while another one scrapes: its counter only grows."""
    over, seen = threading.Event(), []

    def scrape() -> None:
        while not over.is_set():
            found = series(registry)
            seen.append(
                sum(each for (name, _), each in found.items() if name == "workerpool_submitted_total")
            )

    with ThreadPoolExecutor(9) as threads:
        looking = threads.submit(scrape)
        requests = [threads.submit(handle_request, registry, 5) for _ in range(120)]
        try:
            for request in requests:
                request.result(PATIENCE)
        finally:
            over.set()
        looking.result(PATIENCE)
    assert seen == sorted(seen)
    assert value(registry, "workerpool_submitted_total", pool="fanout") == 600
    assert value(registry, "workerpool_completed_total", pool="fanout", result="ok") == 600


def test_sums_do_not_go_down_by_a_bit(registry: CollectorRegistry) -> None:
    """The order in which pools end changes no sum of seconds: a decrease is a restart to Prometheus."""
    clock = ManualClock()
    pools = {
        seconds: InstrumentedPool(ThreadPoolExecutor(1), name="mail", registry=registry, clock=clock)
        for seconds in (0.1, 0.2, 0.3)
    }
    for seconds, pool in pools.items():
        pool.submit(clock.advance, seconds).result(PATIENCE)
        pool.submit(len, "").result(PATIENCE)
    del pool
    names = ("workerpool_busy_seconds_total", "workerpool_task_duration_seconds_sum")
    before = [value(registry, name, pool="mail") for name in names]
    for seconds in (0.3, 0.2, 0.1):
        engine = weakref.ref(pools[seconds]._engine)
        pools.pop(seconds).stop(PATIENCE)
        until_collected(lambda engine=engine: engine() is None)  # type: ignore[misc]
        assert [value(registry, name, pool="mail") for name in names] == before


def test_a_signal_handler_builds_a_pool(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """It may be on top of a frame that holds another pool's lock, whose metrics are closed elsewhere."""
    busy = make_pool(1, name="mail")
    closing = make_pool(1, name="mail")
    with closing._engine.dispatcher.lock:
        thread = threading.Thread(target=closing.close_metrics)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        make_pool(1, name="mail")  # as a handler on top of this frame would
    busy.submit(len, "").result(PATIENCE)
    assert value(registry, "workerpool_submitted_total", pool="mail") == 1


def test_pools_that_live_at_once(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask
) -> None:
    """Counts are added up, ages are those of the oldest; stopped are only all of them."""
    clock = ManualClock()
    first, second = (make_pool(1, name="mail", queue_capacity=3, clock=clock) for _ in range(2))
    for pool in (first, second):
        pool.submit(gate)
        gate.wait_started()
        clock.advance(3.0)
        pool.submit(len, "")
    read = partial(value, registry, pool="mail")
    assert read("workerpool_submitted_total") == 4
    assert read("workerpool_queue_depth") == 2
    assert read("workerpool_queue_capacity") == 6
    assert read("workerpool_workers") == 2
    assert read("workerpool_workers_busy") == 2
    assert read("workerpool_longest_running_seconds") == 6.0
    assert read("workerpool_oldest_queued_seconds") == 3.0
    assert read("workerpool_breaker_state", state="closed") == 1
    assert generate_latest(registry).count(b'workerpool_submitted_total{pool="mail"}') == 1
    gate.release()
    first.stop(PATIENCE)
    assert read("workerpool_stopped") == 0
    assert read("workerpool_workers") == 1
    second.stop(PATIENCE)
    assert read("workerpool_stopped") == 1
    assert read("workerpool_submitted_total") == 4
    # Not that of both: nobody has two of these pools in use.
    assert read("workerpool_workers") == 1


def test_the_name_of_a_stopped_pool(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool that takes over a name goes on with its counters; the stopped one counts what it refuses."""
    old = make_pool(1, name="mail")
    old.submit(len, "").result(PATIENCE)
    old.stop()
    new = make_pool(1, name="mail")
    assert value(registry, "workerpool_submitted_total", pool="mail") == 1
    assert value(registry, "workerpool_stopped", pool="mail") == 0
    new.submit(len, "").result(PATIENCE)
    with pytest.raises(PoolClosedError):
        old.submit(len, "")
    assert value(registry, "workerpool_submitted_total", pool="mail") == 2
    assert value(registry, "workerpool_dropped_total", pool="mail", reason="closed") == 1
    assert new.stats().submitted == 1


def test_close_metrics_of_one_of_two(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """It takes a pool's gauges away, and what it has counted stays with the name; the last one takes all."""
    old, new = make_pool(1, name="mail"), make_pool(1, name="mail")
    old.submit(len, "").result(PATIENCE)
    old.close_metrics()
    assert value(registry, "workerpool_submitted_total", pool="mail") == 1
    assert value(registry, "workerpool_workers", pool="mail") == 1
    new.close_metrics()
    new.close_metrics()
    assert series(registry) == {}
    make_pool(1, name="mail")
    assert value(registry, "workerpool_submitted_total", pool="mail") == 0


def test_one_of_two_breakers_is_open(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Each state that a breaker of the name is in is 1."""
    pools = [make_pool(1, name="mail", breaker=BreakerPolicy(consecutive_failures=1)) for _ in range(2)]
    pools[0].submit(divmod, 1, 0).exception(PATIENCE)
    states = {
        state: value(registry, "workerpool_breaker_state", pool="mail", state=state)
        for state in ("closed", "open", "half_open")
    }
    assert states == {"closed": 1, "open": 1, "half_open": 0}


def test_different_buckets(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Of pools with different buckets the bounds that all have are exported, and their counts are right."""
    clock = ManualClock()
    make: Any = partial(make_pool, 1, name="mail", clock=clock)
    for buckets, seconds in (((0.5, 1.0, 5.0), 0.7), ((1.0, 2.0, 5.0), 1.5)):
        make(buckets=buckets).submit(clock.advance, seconds).result(PATIENCE)
    found = families(registry)["workerpool_task_duration_seconds"].samples
    counts = {s.labels["le"]: s.value for s in found if s.name.endswith("_bucket")}
    assert counts == {"1.0": 1, "5.0": 2, "+Inf": 2}
    assert value(registry, "workerpool_task_duration_seconds_sum", pool="mail") == pytest.approx(2.2)


def test_exemplars_of_both(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Each bucket shows the newest exemplar of all pools of the name."""
    clock, provider = ManualClock(), TracerProvider()
    tracer = provider.get_tracer("test")
    traces = []
    for seconds in (0.2, 0.2, 2.0):
        pool = make_pool(1, name="mail", clock=clock, tracer_provider=provider)
        with tracer.start_as_current_span("request") as span:
            pool.submit(clock.advance, seconds).result(PATIENCE)
            traces.append(f"{span.get_span_context().trace_id:032x}")
        pool.stop(PATIENCE)
    samples = openmetrics_families(registry)["workerpool_task_duration_seconds"].samples
    shown = {s.labels["le"]: s.exemplar.labels["trace_id"] for s in samples if s.exemplar is not None}
    assert shown == {"0.25": traces[1], "2.5": traces[2]}


def test_a_registry_that_was_emptied(make_pool: MakePool) -> None:
    """A pool that is built after an application's tests have emptied their registry is exported again."""
    registry = CollectorRegistry(auto_describe=True)
    make_pool(1, name="before", registry=registry)
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)
    assert series(registry) == {}
    make_pool(1, name="after", registry=registry)
    assert value(registry, "workerpool_workers", pool="after") == 1


def test_a_registry_that_has_the_metrics_of_another() -> None:
    """A registry that exports a metric of the same name from elsewhere is refused, naming it."""
    registry = CollectorRegistry(auto_describe=True)
    Gauge("workerpool_workers", "Not ours.", registry=registry)
    with ThreadPoolExecutor(1) as executor, pytest.raises(ValueError, match="workerpool_workers"):
        InstrumentedPool(executor, name="mail", registry=registry)
    assert REGISTRY is not registry
