"""The metrics: their names, types, labels and values, in every format and through HTTP."""

from __future__ import annotations

import io
import math
import subprocess
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest, make_wsgi_app, start_http_server
from prometheus_client.openmetrics import exposition as openmetrics

import prodpool
from prodpool import BreakerPolicy, InstrumentedPool, PoolFullError, Reason, Result
from prodpool.task.outcomes import LossCause
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.support import MakePool
from tests.telemetry.scraping import families, of_the_pools, openmetrics_families, series, value

RESULTS = ["ok", "error", "panic", "timeout"]
REASONS = [
    "full", "closed", "breaker_open", "expired", "cancelled", "shutdown",
]  # fmt: skip
CAUSES = ["signal", "exit", "start", "backend"]
STATES = ["closed", "open", "half_open"]
SINKS = ["log", "trace", "breaker", "callback", "around", "watchdog", "metrics", "internal"]
LADDER = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, math.inf]

# Of a pool that nothing was told, on threads of its own.
KNOBS = [
    "max_workers", "slow_after", "hung_after", "drain_deadline", "overload:reject", "on_hang_exit:exit",
]  # fmt: skip

# The table of telemetry.md 1: family, type, the label beside `pool` and its values.
EXPECTED: list[tuple[str, str, str | None, list[str]]] = [
    ("workerpool_offered_total", "counter", None, []),
    ("workerpool_submitted_total", "counter", None, []),
    ("workerpool_completed_total", "counter", "result", RESULTS),
    ("workerpool_dropped_total", "counter", "reason", REASONS),
    ("workerpool_queue_depth", "gauge", None, []),
    ("workerpool_queue_capacity", "gauge", None, []),
    ("workerpool_workers", "gauge", None, []),
    ("workerpool_workers_busy", "gauge", None, []),
    ("workerpool_queue_dwell_seconds", "histogram", None, []),
    ("workerpool_task_duration_seconds", "histogram", None, []),
    ("workerpool_admission_wait_seconds", "histogram", None, []),
    ("workerpool_busy_seconds_total", "counter", None, []),
    ("workerpool_oldest_queued_seconds", "gauge", None, []),
    ("workerpool_longest_running_seconds", "gauge", None, []),
    ("workerpool_hung_tasks", "gauge", None, []),
    ("workerpool_slow_tasks_total", "counter", None, []),
    ("workerpool_abandoned_total", "counter", None, []),
    ("workerpool_workers_started_total", "counter", None, []),
    ("workerpool_workers_lost_total", "counter", "cause", CAUSES),
    ("workerpool_backend_rebuilds_total", "counter", None, []),
    ("workerpool_telemetry_errors_total", "counter", "sink", SINKS),
    ("workerpool_breaker_state", "gauge", "state", STATES),
    ("workerpool_stopped", "gauge", None, []),
    ("workerpool_info", "gauge", None, []),
    ("workerpool_scheduling_delay_seconds", "histogram", None, []),
    ("workerpool_process_threads", "gauge", None, []),
    ("workerpool_config", "gauge", "knob", KNOBS),
    ("workerpool_tasks_finished_total", "counter", "task", []),
    ("workerpool_tasks_run_seconds_total", "counter", "task", []),
]
HISTOGRAMS = [name for name, kind, _, _ in EXPECTED if kind == "histogram"]
VERSION = version("prodpool")


def expected_series(pool: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Every series that a pool on a ThreadPoolExecutor has, from its construction on."""
    found: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def add(name: str, **labels: str) -> None:
        found.add((name, frozenset({"pool": pool, **labels}.items())))

    for name, kind, label, values in EXPECTED:
        if name == "workerpool_info":
            add(name, backend="ThreadPoolExecutor", version=VERSION)
        elif kind == "histogram":
            add(f"{name}_count")
            add(f"{name}_sum")
            for bound in LADDER:
                add(f"{name}_bucket", le="+Inf" if math.isinf(bound) else str(float(bound)))
        elif label is None:
            add(name)
        else:
            for each in values:
                add(name, **{label: each})
    return found


def test_families(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """The families are those of the table, no more and no fewer, each of its type and with a help text."""
    make_pool()
    found = families(registry)
    # The parser takes the suffix off a counter's family.
    types = {
        f"{name}_total" if family.type == "counter" else name: family.type for name, family in found.items()
    }
    assert types == {name: kind for name, kind, _, _ in EXPECTED}
    assert all(family.documentation.endswith(".") for family in found.values())


def test_every_series_is_there_from_the_start(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool that nobody has used exports every child of every family, and no other label."""
    make_pool(1, name="fresh")
    found = series(registry)
    assert set(found) == expected_series("fresh")
    not_zero = {name for (name, _), each in found.items() if each}
    assert not_zero == {
        "workerpool_queue_capacity",
        "workerpool_workers",
        "workerpool_breaker_state",
        "workerpool_info",
        "workerpool_config",
        "workerpool_process_threads",
    }


def test_no_series_appears_later(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask
) -> None:
    """Work, failures, refusals and a stop add no series."""
    pool = make_pool(1, queue_capacity=1)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    pool.submit(exit).exception(PATIENCE)
    pool.submit(gate)
    gate.wait_started()
    pool.options(task="named").submit(len, "").cancel()
    pool.submit(len, "")
    with pytest.raises(PoolFullError):
        pool.submit(len, "")
    gate.release()
    pool.stop()
    assert set(series(registry)) == expected_series("test")


def test_words_are_those_of_the_api() -> None:
    """Label values are the enums' words, so that code and dashboards speak alike."""
    assert [reason.value for reason in Reason] == REASONS
    assert [result.value for result in Result] == RESULTS
    assert [cause.value for cause in LossCause] == CAUSES


def test_openmetrics(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """The strict parser of OpenMetrics takes the scrape and finds the same families."""
    make_pool().submit(len, "").result(PATIENCE)
    assert set(openmetrics_families(registry)) == {name.removesuffix("_total") for name, _, _, _ in EXPECTED}


def test_values(make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask) -> None:
    """One story, told by a manual clock, and every number of it as it should be."""
    clock = ManualClock()
    pool = make_pool(2, queue_capacity=3, clock=clock, slow_after=1.0, hung_after=4.0)

    def take(seconds: float) -> None:
        clock.advance(seconds)

    pool.submit(take, 0.02).result(PATIENCE)
    pool.submit(take, 1.5).result(PATIENCE)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    pool.submit(exit).exception(PATIENCE)
    pool.submit(gate)
    gate.wait_started()
    clock.advance(3.0)
    pool.submit(gate)
    gate.wait_started()
    cancelled, waiting = pool.submit(len, ""), pool.submit(len, "")
    clock.advance(2.0)
    pool.submit(len, "")
    with pytest.raises(PoolFullError):
        pool.submit(len, "")
    cancelled.cancel()
    found = {
        (name, *sorted(dict(labels).items() - {("pool", "test")})): each
        for (name, labels), each in of_the_pools(series(registry)).items()
        if "_seconds_bucket" not in name and name != "workerpool_config" and each
    }
    assert found == {
        ("workerpool_offered_total",): 10,
        ("workerpool_submitted_total",): 9,
        ("workerpool_completed_total", ("result", "ok")): 2,
        ("workerpool_completed_total", ("result", "error")): 1,
        ("workerpool_completed_total", ("result", "panic")): 1,
        ("workerpool_dropped_total", ("reason", "full")): 1,
        ("workerpool_dropped_total", ("reason", "cancelled")): 1,
        ("workerpool_queue_depth",): 2,
        ("workerpool_queue_capacity",): 3,
        ("workerpool_workers",): 2,
        ("workerpool_workers_busy",): 2,
        ("workerpool_queue_dwell_seconds_count",): 4,
        ("workerpool_task_duration_seconds_count",): 4,
        ("workerpool_task_duration_seconds_sum",): pytest.approx(1.52),
        ("workerpool_busy_seconds_total",): pytest.approx(1.52 + 5.0 + 2.0),
        ("workerpool_oldest_queued_seconds",): 2.0,
        ("workerpool_longest_running_seconds",): 5.0,
        ("workerpool_hung_tasks",): 1,
        ("workerpool_slow_tasks_total",): 1,
        ("workerpool_workers_started_total",): 2,
        ("workerpool_breaker_state", ("state", "closed")): 1,
        ("workerpool_info", ("backend", "ThreadPoolExecutor"), ("version", VERSION)): 1,
    }
    gate.release()
    waiting.result(PATIENCE)
    pool.stop()
    after = {
        name: value(registry, f"workerpool_{name}") for name in ("queue_depth", "workers_busy", "stopped")
    }
    assert after == {"queue_depth": 0, "workers_busy": 0, "stopped": 1}
    assert value(registry, "workerpool_queue_dwell_seconds_sum") == 2.0


@pytest.mark.parametrize("name", ["workerpool_queue_dwell_seconds", "workerpool_task_duration_seconds"])
@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.0011, 0.5, 1.0, 299.0, 300.0, 301.0])
def test_buckets(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask, name: str, seconds: float
) -> None:
    """An observation is counted in every bucket from its own on; a bound belongs to its bucket."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    pool.submit(gate)
    gate.wait_started()
    if "dwell" in name:
        future = pool.submit(len, "")
        clock.advance(seconds)
    else:
        future = pool.submit(clock.advance, seconds)  # type: ignore[arg-type]
    gate.release()
    future.result(PATIENCE)
    samples = families(registry)[name].samples
    counts = {float(s.labels["le"]): s.value for s in samples if s.name.endswith("_bucket")}
    # The task at the gate neither waited nor took any time: it is in every bucket.
    assert list(counts) == LADDER
    assert counts == {bound: 1 + (seconds <= bound) for bound in LADDER}


@pytest.mark.parametrize("given", [(0.5, 1), [0.5, 1.0, math.inf]], ids=repr)
def test_buckets_of_ones_own(make_pool: MakePool, registry: CollectorRegistry, given: Any) -> None:
    """Given buckets are those of all that tasks take; the unbounded one is added if it is not there."""
    make_pool(buckets=given)
    for name in HISTOGRAMS:
        bounds = [s.labels["le"] for s in families(registry)[name].samples if s.name.endswith("_bucket")]
        if name == "workerpool_scheduling_delay_seconds":
            assert list(map(float, bounds)) == LADDER  # of the process
        else:
            assert bounds == ["0.5", "1.0", "+Inf"]


def test_admission_wait(make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask) -> None:
    """A submit that had to wait for a slot is counted with its wait, which is no part of the dwell."""
    clock = ManualClock()
    pool = make_pool(1, queue_capacity=0, clock=clock)
    pool.submit(gate)
    gate.wait_started()
    waiter = threading.Thread(target=pool.submit_wait, args=(len, ""))
    waiter.start()
    until(lambda: pool._engine.dispatcher.waiters.length)
    clock.advance(3.0)
    gate.release()
    waiter.join(PATIENCE)
    pool.stop()
    assert value(registry, "workerpool_admission_wait_seconds_count") == 1
    assert value(registry, "workerpool_admission_wait_seconds_sum") == 3.0
    assert value(registry, "workerpool_queue_dwell_seconds_sum") == 0.0


def test_breaker_state(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Exactly one state is 1, and it follows the breaker: closed, open, half-open."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, breaker=BreakerPolicy(consecutive_failures=2, open_for=30.0))

    def states() -> dict[str, float]:
        return {state: value(registry, "workerpool_breaker_state", state=state) for state in STATES}

    assert states() == {"closed": 1, "open": 0, "half_open": 0}
    for _ in range(2):
        pool.submit(divmod, 1, 0).exception(PATIENCE)
    assert states() == {"closed": 0, "open": 1, "half_open": 0}
    with pytest.raises(prodpool.BreakerOpenError):
        pool.submit(len, "")
    assert value(registry, "workerpool_dropped_total", reason="breaker_open") == 1
    clock.advance(31.0)
    probe = BlockingTask()
    future = pool.submit(probe)
    assert states() == {"closed": 0, "open": 0, "half_open": 1}
    probe.release()
    future.result(PATIENCE)
    assert states() == {"closed": 1, "open": 0, "half_open": 0}


# The counter of busy seconds


class LoopholeClock(ManualClock):
    """A manual clock that makes a call in the middle of one reading, where another thread might run."""

    def __init__(self) -> None:
        super().__init__()
        self.hook: tuple[str, Callable[[], None]] | None = None

    def monotonic(self) -> float:
        now = super().monotonic()
        hook = self.hook
        if hook is not None and threading.current_thread().name.startswith(hook[0]):
            self.hook = None
            hook[1]()
        return now


@pytest.mark.parametrize("slow_after", [0.5, math.inf], ids=["slow", "fast"])
def test_busy_seconds_never_go_down(
    make_pool: MakePool, registry: CollectorRegistry, slow_after: float
) -> None:
    """A scrape between a task's end and its being counted shows no more than the next one."""
    clock = LoopholeClock()
    pool = make_pool(1, clock=clock, slow_after=slow_after)
    seen: list[float] = []

    def look() -> None:
        clock.advance(5.0)
        seen.append(value(registry, "workerpool_busy_seconds_total"))

    def task() -> None:
        clock.advance(10.0)
        # Read next: the moment at which this task ends.
        clock.hook = ("ThreadPoolExecutor", look)

    for _ in range(3):
        pool.submit(task).result(PATIENCE)
        seen.append(value(registry, "workerpool_busy_seconds_total"))
    assert seen == sorted(seen)
    assert seen[0] == 15.0


def test_nothing_has_run_for_less_than_no_time(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A task that begins in the middle of a scrape counts as running for 0 seconds, not for fewer."""
    clock, began, gate = LoopholeClock(), threading.Event(), BlockingTask()
    pool = make_pool(1, clock=clock)
    before = value(registry, "workerpool_busy_seconds_total")

    def let_one_begin() -> None:
        clock.advance(7.0)
        began.set()
        gate.wait_started()

    at_the_start = threading.Event()

    def hold() -> None:
        at_the_start.set()
        assert began.wait(PATIENCE)

    pool.submit(len, "").result(PATIENCE)  # its loop is up, so that the next reading is the start of a run
    until(lambda: pool._engine.dispatcher.worker_set.parked)
    held = ("ThreadPoolExecutor", hold)
    clock.hook = held
    future = pool.submit(gate)
    assert at_the_start.wait(PATIENCE)
    clock.hook = ("MainThread", let_one_begin)
    stats = pool.stats()
    busy = value(registry, "workerpool_busy_seconds_total")
    gate.release()
    future.result(PATIENCE)
    assert stats.longest_running >= 0
    assert busy >= before


# Several pools, and the end of one


def test_two_pools_are_two_series_of_one_family(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Pools of one registry share their families, each name said once, and count apart."""
    first, second = make_pool(1, name="first"), make_pool(1, name="second")
    first.submit(len, "").result(PATIENCE)
    for _ in range(2):
        second.submit(len, "").result(PATIENCE)
    text = generate_latest(registry).decode()
    for name, kind, _, _ in EXPECTED:
        assert text.count(f"# TYPE {name} {kind}\n") == 1
        assert text.count(f"# HELP {name} ") == 1
    assert set(series(registry)) == expected_series("first") | expected_series("second")
    counts = [value(registry, "workerpool_submitted_total", pool=pool) for pool in ("first", "second")]
    assert counts == [1, 2]


@pytest.mark.parametrize("auto_describe", [True, False])
def test_beside_other_metrics(make_pool: MakePool, auto_describe: bool) -> None:
    """A registry that holds an application's metrics takes pools at any time, however it was made."""
    registry = CollectorRegistry(auto_describe=auto_describe)
    Gauge("app_up", "Whether it is up.", registry=registry).set(1)
    for number in range(3):
        make_pool(1, registry=registry, name=f"pool_{number}")
    Gauge("app_late", "Made last.", registry=registry)
    assert len(families(registry)) == len(EXPECTED) + 2


def test_a_stopped_pool_stays_readable(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """After its stop a pool's final numbers are in every scrape, until close_metrics()."""
    pool = make_pool(1)
    pool.submit(len, "").result(PATIENCE)
    pool.stop()
    for _ in range(3):
        assert value(registry, "workerpool_completed_total", result="ok") == 1
        assert value(registry, "workerpool_stopped") == 1
    pool.close_metrics()
    pool.close_metrics()
    assert series(registry) == {}


def test_stopped_from_the_beginning_of_the_drain(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask
) -> None:
    """The gauge of stopped pools is 1 as soon as a pool drains."""
    pool = make_pool(1)
    pool.submit(gate)
    pool.shutdown(wait=False)
    assert value(registry, "workerpool_stopped") == 1
    assert pool.stats().state == "draining"


# Through HTTP, and to the judge

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def busy_pool(make_pool: MakePool) -> InstrumentedPool:
    """Return a pool that has seen some of everything."""
    pool = make_pool(2, queue_capacity=2, breaker=BreakerPolicy())
    pool.submit(len, "").result(PATIENCE)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    return pool


@pytest.mark.parametrize("accept", ["text/plain", OPENMETRICS], ids=["text", "openmetrics"])
def test_over_http(make_pool: MakePool, registry: CollectorRegistry, accept: str) -> None:
    """prometheus_client's own server hands a pool out, in the format that is asked for."""
    busy_pool(make_pool)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urlopen(Request(url, headers={"Accept": accept}), timeout=PATIENCE) as answer:
            text, kind = answer.read().decode(), answer.headers["Content-Type"]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
    assert 'workerpool_completed_total{pool="test",result="ok"} 1.0\n' in text
    assert kind.startswith(accept.partition(";")[0])
    assert text.endswith("# EOF\n") is (accept == OPENMETRICS)


def test_over_wsgi(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A WSGI application hands a pool out, and filters it by name."""
    busy_pool(make_pool)
    app = make_wsgi_app(registry)
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/metrics",
        "QUERY_STRING": "name[]=workerpool_queue_depth",
        "wsgi.input": io.BytesIO(),
    }
    status: list[str] = []
    body = b"".join(app(environ, lambda line, _headers: status.append(line)))
    assert status == ["200 OK"]
    assert body.splitlines()[-1] == b'workerpool_queue_depth{pool="test"} 0.0'
    assert body.count(b"# TYPE") == 1


@pytest.mark.once
@pytest.mark.parametrize("state", ["fresh", "busy", "stopped"])
def test_promtool_has_nothing_to_say(
    make_pool: MakePool, registry: CollectorRegistry, promtool: str, state: str
) -> None:
    """`promtool check metrics` finds no fault with a scrape, whatever the pool has been through."""
    pool = make_pool() if state == "fresh" else busy_pool(make_pool)
    make_pool(1, name="another")
    if state == "stopped":
        pool.stop()
    check = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(registry),
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


@pytest.mark.once
def test_promtool_would_say_something(promtool: str) -> None:
    """The judge above is awake: it objects to a counter whose name does not say so."""
    bad = b"# HELP bad_counter Bad.\n# TYPE bad_counter counter\nbad_counter 1\n"
    check = subprocess.run(
        [promtool, "check", "metrics"], input=bad, capture_output=True, timeout=30, check=False
    )
    assert check.returncode != 0
    assert b"_total" in check.stdout + check.stderr


def test_a_scrape_while_the_pool_works(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Each scrape by itself obeys the law, while threads submit and cancel."""
    pool = make_pool(3, queue_capacity=5)

    def hammer() -> None:
        for number in range(200):
            try:
                future = pool.submit(divmod, 1, number % 3)
            except PoolFullError:
                continue
            if number % 5 == 0:
                future.cancel()

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    scrapes, before = 0, -1.0
    while any(thread.is_alive() for thread in threads) or scrapes < 20:
        now = series(registry)

        def total(name: str, *only: str, now: dict[Any, float] = now) -> float:
            return sum(
                each
                for (series_name, labels), each in now.items()
                if series_name == name and (not only or set(dict(labels).values()) & set(only))
            )

        completed = total("workerpool_completed_total")
        inside = total("workerpool_queue_depth") + total("workerpool_workers_busy")
        dropped = total("workerpool_dropped_total", "expired", "cancelled", "shutdown")
        assert total("workerpool_submitted_total") == completed + dropped + inside
        assert total("workerpool_task_duration_seconds_count") == completed
        assert total("workerpool_busy_seconds_total") >= before
        before = total("workerpool_busy_seconds_total")
        scrapes += 1
    for thread in threads:
        thread.join(PATIENCE)


def test_the_exposition_says_nothing_twice(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """No line of a scrape, in either format, is there twice."""
    make_pool(1, name="first")
    make_pool(1, name="second")
    as_openmetrics = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    for text in (generate_latest(registry), as_openmetrics):
        lines = text.decode().splitlines()
        assert len(lines) == len(set(lines))
