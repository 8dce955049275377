"""What telemetry costs a task is counted here; how long that takes is the benchmarks' affair."""

from __future__ import annotations

import threading
from concurrent.futures import wait
from typing import Any

import pytest
from opentelemetry import context as otel_context
from prometheus_client import Counter, Gauge, Histogram

from prodpool.concurrency.clock import SystemClock
from prodpool.testing import flush_telemetry
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool


class CountingClock(SystemClock):
    """A clock that counts who reads it."""

    def __init__(self) -> None:
        self.reads: dict[str, int] = {}

    def monotonic(self) -> float:
        who = threading.current_thread().name.partition("-")[0]
        self.reads[who] = self.reads.get(who, 0) + 1
        return SystemClock.monotonic()


def reads_for(make_pool: MakePool, tasks: int, fn: Any) -> tuple[int, int]:
    """Return how often the clock was read to submit and to run ``tasks`` tasks, one after another."""
    clock, gate = CountingClock(), BlockingTask()
    pool = make_pool(1, clock=clock, queue_capacity=tasks, name=f"tasks_{tasks}")
    pool.submit(gate)
    gate.wait_started()
    futures = [pool.submit(fn) for _ in range(tasks)]
    gate.release()
    wait(futures, PATIENCE)
    pool.stop()
    return clock.reads["MainThread"], clock.reads["ThreadPoolExecutor"]


def test_three_looks_at_the_clock(make_pool: MakePool) -> None:
    """A task costs three readings of the clock: one at submit, one at its start, one at its end."""
    few, many = reads_for(make_pool, 10, bool), reads_for(make_pool, 110, bool)
    assert [more - less for less, more in zip(few, many, strict=True)] == [100, 200]


def test_no_log_call_for_a_task_that_goes_well(make_pool: MakePool, logs: Logs) -> None:
    """A task that ends well and in time writes nothing."""
    pool = make_pool(2)
    wait([pool.submit_wait(bool) for _ in range(200)], PATIENCE)
    assert flush_telemetry(pool)
    assert logs.events == ["pool.created"]


def test_no_metric_object_on_the_way(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object of prometheus_client is touched while tasks come and go; only a scrape makes any."""
    touched: list[str] = []
    for kind, method in (
        (Counter, "inc"),
        (Gauge, "inc"),
        (Gauge, "dec"),
        (Gauge, "set"),
        (Histogram, "observe"),
    ):
        monkeypatch.setattr(kind, method, lambda *_args, **_kwargs: touched.append("touched"))
        monkeypatch.setattr(kind, "labels", lambda *_args, **_kwargs: touched.append("labels"))
    pool = make_pool(2, queue_capacity=300)
    futures = [pool.submit(divmod, 1, number % 2) for number in range(200)]
    futures[-1].cancel()
    wait(futures, PATIENCE)
    assert touched == []


def test_no_trace_context_while_nobody_traces(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a tracer provider no trace context is attached or looked at."""
    touched: list[str] = []
    for name in ("attach", "detach", "get_current"):
        monkeypatch.setattr(otel_context, name, lambda *_args, name=name: touched.append(name))
    pool = make_pool(1)
    for _ in range(20):
        pool.submit(bool).result(PATIENCE)
    assert touched == []
