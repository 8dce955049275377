"""The log events: each with the level and exactly the fields of the reference, and no other event."""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pybreaker
import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import BreakerOpenError, BreakerPolicy, InstrumentedPool, PoolFullError
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import PATIENCE
from tests.log_reference import difference, documented
from tests.support import Logs, MakePool
from tests.telemetry.ticking import ticks
from tests.telemetry.tracer import Spans


def innermost() -> None:
    raise TaskError("went off")


def boom() -> None:
    innermost()


def leave() -> None:
    raise SystemExit(3)


def entry(level: str, event: str, /, pool: str = "test", **fields: object) -> dict[str, object]:
    return {"event": event, "log_level": level, "pool": pool, **fields}


def test_no_other_event_is_written() -> None:
    """Every event name in the source is one that is documented."""
    written: set[str] = set()
    for path in Path(prodpool.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                family, dot, word = node.value.partition(".")
                if dot and family in {"pool", "task", "breaker"} and word.isidentifier() and word.islower():
                    written.add(node.value)
    assert written == set(documented())


def test_no_field_is_made_up() -> None:
    """Every field that the reference names is one that the source writes."""
    names: set[str] = set()
    for path in Path(prodpool.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg is not None:
                names.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    assert {field for event in documented().values() for field in event.required | event.optional} <= names


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"event": "service.started"}, None),
        ({"event": "task.vanished"}, "task.vanished is not in log-events.md"),
        ({"log_level": "error"}, "task.slow was written as error, and log-events.md says warning"),
        ({"argument": 7}, "task.slow lacks [] and has ['argument']"),
        ({"trace_id": "0", "suppressed": 3}, None),
    ],
    ids=["as it is", "of the application", "unknown", "level", "field", "of a traced storm"],
)
def test_a_line_is_compared_with_the_reference(changed: dict[str, object], said: str | None) -> None:
    """A line of another level, with other fields or of an unknown event is told apart."""
    line = entry("warning", "task.slow", task="resize", dwell=0.0, duration=1.0, slow_after=1.0, result="ok")
    assert difference({**line, **changed}) == said


def test_a_quiet_life(make_pool: MakePool, logs: Logs) -> None:
    """A pool that is made, resized and stopped writes these lines, with these fields, and no others."""
    pool = make_pool(4, name="mail", queue_capacity=9)
    pool.submit(len, "").result(PATIENCE)
    pool.resize(3)
    report = pool.stop()
    assert logs.entries == [
        entry("info", "pool.created", "mail", backend="ThreadPoolExecutor", workers=4, queue_capacity=9),
        entry("info", "pool.resized", "mail", old=4, new=3),
        entry("info", "pool.draining", "mail", queue_depth=0, running=0),
        entry(
            "info",
            "pool.stopped",
            "mail",
            drained=True,
            completed=0,
            dropped=0,
            abandoned=0,
            elapsed=round(report.elapsed, 6),
        ),
    ]


def test_threads_of_its_own(registry: CollectorRegistry, logs: Logs) -> None:
    """The backend of prodpool.threads() is called threads."""
    with prodpool.threads(name="own", max_workers=2, registry=registry, logger=logs.logger) as pool:
        pool.submit(int).result(PATIENCE)
        created = logs.wait_for("pool.created")
    assert created == entry("info", "pool.created", "own", backend="threads", workers=2, queue_capacity=4)


@pytest.mark.parametrize(
    ("fn", "level", "event", "error"),
    [(boom, "warning", "task.error", "TaskError"), (leave, "error", "task.panic", "SystemExit")],
    ids=["error", "panic"],
)
@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
def test_a_failed_task(
    make_pool: MakePool,
    logs: Logs,
    fn: Callable[[], None],
    level: str,
    event: str,
    error: str,
    traced: bool,
) -> None:
    """Promise 5: a failed task is logged with its stack although nobody reads its future."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, tracer_provider=Spans().provider if traced else None)

    def task() -> None:
        clock.advance(0.25)
        fn()

    pool.options(task="fails").submit(task)
    line = logs.wait_for(event)
    stack = str(line.pop("stack"))
    ids = {key: line.pop(key) for key in ("trace_id", "span_id")} if traced else {}
    message = line.pop("error_message")
    assert message == ("went off" if fn is boom else "3")
    assert line == entry(level, event, task="fails", error=error, duration=0.25)
    assert [len(str(each)) for each in ids.values()] == ([32, 16] if traced else [])
    # The user's own frames, outermost first, and none of the pool's.
    assert stack.startswith("Traceback (most recent call last):\n")
    assert stack.index("in task\n") < stack.index(f"in {fn.__name__}\n")
    assert error in stack.splitlines()[-1]
    assert f"{Path(prodpool.__file__).parent}/" not in stack


@pytest.mark.parametrize("way", ["run", "partial", "twice"])
def test_the_name_of_what_a_context_runs(make_pool: MakePool, logs: Logs, way: str) -> None:
    """What asyncio.to_thread and gRPC submit has the name of the function, and not that of Context.run."""
    pool = make_pool(1)
    run: Any = copy_context().run
    if way == "run":
        pool.submit(run, partial(boom)).exception(PATIENCE)
    elif way == "partial":
        pool.submit(partial(run, boom)).exception(PATIENCE)
    else:
        pool.submit(run, copy_context().run, boom).exception(PATIENCE)
    assert logs.wait_for("task.error")["task"] == "boom"


def test_a_failed_task_that_is_read_is_logged_once(make_pool: MakePool, logs: Logs) -> None:
    """Reading the exception adds no line."""
    pool = make_pool(1)
    future = pool.submit(boom)
    for _ in range(3):
        future.exception(PATIENCE)
    pool.stop()
    assert logs.events.count("task.error") == 1


def test_a_cause_is_in_the_stack(make_pool: MakePool, logs: Logs) -> None:
    """The stack of an exception shows what it was caused by."""

    def task() -> None:
        try:
            boom()
        except TaskError as error:
            raise LookupError("second") from error

    make_pool(1).submit(task)
    stack = str(logs.wait_for("task.error")["stack"])
    assert (
        stack.index("TaskError: went off") < stack.index("direct cause") < stack.index("LookupError: second")
    )


@pytest.mark.parametrize(("duration", "slow"), [(0.0, False), (0.99, False), (1.0, True), (50.0, True)])
def test_a_slow_task(
    make_pool: MakePool,
    logs: Logs,
    registry: CollectorRegistry,
    gate: BlockingTask,
    duration: float,
    slow: bool,
) -> None:
    """From slow_after on a finished task is logged and counted as slow; the line has what it took."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, slow_after=1.0)
    pool.submit(gate)
    gate.wait_started()
    pool.options(task="slow").submit(clock.advance, duration)
    clock.advance(0.5)
    gate.release()
    pool.stop()
    expected = entry(
        "warning", "task.slow", task="slow", dwell=0.5, duration=duration, slow_after=1.0, result="ok"
    )
    assert logs.named("task.slow") == ([expected] if slow else [])
    assert registry.get_sample_value("workerpool_slow_tasks_total", {"pool": "test"}) == slow


def test_a_slow_failure_is_both(make_pool: MakePool, logs: Logs) -> None:
    """A task that is slow and fails has a line for each."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, slow_after=1.0)

    def task() -> None:
        clock.advance(2.0)
        boom()

    pool.options(task="both").submit(task).exception(PATIENCE)
    assert [logs.wait_for("task.slow")["result"], logs.wait_for("task.error")["duration"]] == ["error", 2.0]


def test_a_drain_that_meets_its_deadline(
    make_pool: MakePool, logs: Logs, gate: BlockingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long drain tells its progress; at the deadline it says so, names who still runs, and adds up."""
    monkeypatch.setattr("prodpool.shutdown.phases.PROGRESS_EVERY", 0.02)
    clock = ManualClock()
    pool = make_pool(1, clock=clock, queue_capacity=2)
    pool.options(task="hangs").submit(gate)
    gate.wait_started()
    for _ in range(2):
        pool.submit(len, "")
    clock.advance(7.0)
    report = pool.stop(deadline=0.4)
    events = [line for line in logs.entries if line["event"] != "pool.drain_progress"][1:]
    elapsed = [
        line.pop("elapsed") for line in events if line["event"].startswith("pool.d") and "elapsed" in line
    ]
    stack = str(events[2].pop("stack"))
    assert events == [
        entry("info", "pool.draining", queue_depth=2, running=1),
        entry("warning", "pool.drain_deadline", remaining=3),
        entry("error", "task.abandoned", task="hangs", elapsed=7.0),
        entry("warning", "pool.dropping", dropped=2, offered=3, shutdown=2),
        entry(
            "warning",
            "pool.stopped",
            drained=False,
            completed=0,
            dropped=2,
            abandoned=1,
            elapsed=round(report.elapsed, 6),
        ),
    ]
    assert elapsed[0] >= 0.4
    assert "in __call__" in stack
    progress = logs.named("pool.drain_progress")
    assert 1 <= len(progress) <= 20
    for line in progress:
        assert line == entry("info", "pool.drain_progress", remaining=3, elapsed=line["elapsed"])
        assert 0.02 <= line["elapsed"] < 0.4


def test_a_drain_that_was_held_up(
    make_pool: MakePool, logs: Logs, gate: BlockingTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drain whose thread was kept from running for long, as in a frozen process, still comes to its end."""
    # So short that the next line of progress is overdue whenever the drain looks at the clock.
    monkeypatch.setattr("prodpool.shutdown.phases.PROGRESS_EVERY", 1e-9)
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()
    assert not pool.stop(deadline=0.02).drained
    assert logs.wait_for("pool.stopped")["abandoned"] == 1


def test_a_broken_backend(registry: CollectorRegistry, logs: Logs) -> None:
    """A backend that breaks is logged as an error, with what broke it."""
    backend = ThreadPoolExecutor(1, initializer=boom)
    pool = InstrumentedPool(backend, name="test", registry=registry, logger=logs.logger)
    pool.submit(len, "").exception(PATIENCE)
    line = logs.wait_for("pool.backend_broken")
    assert set(line) == {"event", "log_level", "pool", "error"}
    assert line["log_level"] == "error"
    assert "BrokenThreadPool" in str(line["error"])
    pool.stop(1.0)


def test_a_breaker_that_changes(make_pool: MakePool, logs: Logs) -> None:
    """Each change of the breaker is one line: from what, to what, and why."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, breaker=BreakerPolicy(consecutive_failures=2, open_for=30.0))
    for _ in range(2):
        pool.submit(boom).exception(PATIENCE)
    clock.advance(31.0)
    pool.submit(len, "").result(PATIENCE)
    logs.wait_for("breaker.changed", count=3)
    lines = logs.named("breaker.changed")
    assert all(set(line) == {"event", "log_level", "pool", "old", "new", "why"} for line in lines)
    assert [(line["log_level"], line["old"], line["new"]) for line in lines] == [
        ("warning", "closed", "open"),
        ("warning", "open", "half_open"),
        ("warning", "half_open", "closed"),
    ]
    assert all(line["why"] for line in lines)


# Many of a kind


def test_drops_are_summed_up(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """However many tasks are dropped, there is one line in ten seconds: how many, by reason."""
    clock = ManualClock()
    pool = make_pool(1, queue_capacity=3, clock=clock)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()

    def refuse(times: int) -> None:
        for _ in range(times):
            with pytest.raises(PoolFullError):
                pool.submit(len, "")

    tick()
    assert logs.named("pool.dropping") == []
    futures = [pool.submit(len, "") for _ in range(3)]
    refuse(500)
    for future in futures[:2]:
        future.cancel()
    tick()
    assert logs.named("pool.dropping") == [
        entry("warning", "pool.dropping", dropped=502, offered=503, full=500, cancelled=2)
    ]
    futures[:2] = [pool.submit(len, "") for _ in range(2)]
    refuse(30)
    for _ in range(9):
        clock.advance(1.0)
        tick()
    assert len(logs.named("pool.dropping")) == 1
    clock.advance(1.0)
    tick()
    assert logs.named("pool.dropping")[1:] == [
        entry("warning", "pool.dropping", dropped=30, offered=32, full=30)
    ]
    clock.advance(100.0)
    tick()
    assert len(logs.named("pool.dropping")) == 2, "nothing dropped, nothing said"
    refuse(4)
    gate.release()
    pool.stop()
    assert logs.named("pool.dropping")[2:] == [
        entry("warning", "pool.dropping", dropped=4, offered=4, full=4)
    ]


def storm(pool: InstrumentedPool, fn: Callable[[], object], times: int) -> None:
    for _ in range(times):
        pool.submit(fn).exception(PATIENCE)


def test_dropped_before_the_first_task(make_pool: MakePool, logs: Logs) -> None:
    """What a breaker refuses is told also of a pool that no task was ever admitted to."""
    breaker = pybreaker.CircuitBreaker(reset_timeout=60)
    breaker.open()
    pool = make_pool(1, breaker=breaker)
    for _ in range(3):
        with pytest.raises(BreakerOpenError):
            pool.submit(int)
    assert logs.wait_for("pool.dropping") == entry(
        "warning", "pool.dropping", dropped=3, offered=3, breaker_open=3
    )
    assert logs.events[0] == "pool.created"


@pytest.mark.parametrize(
    ("event", "label"), [("task.error", "error"), ("task.panic", "panic"), ("task.slow", "ok")]
)
def test_a_storm(
    make_pool: MakePool, logs: Logs, registry: CollectorRegistry, event: str, label: str
) -> None:
    """A thousand lines alike become a hundred, then ten a second; what was held back is told later."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, slow_after=0.0 if event == "task.slow" else 1e9)
    ticks(pool)
    fns: dict[str, Callable[[], object]] = {"task.error": boom, "task.panic": leave, "task.slow": bool}
    fn = fns[event]

    def lines() -> list[object]:
        assert flush_telemetry(pool)
        return [line.get("suppressed") for line in logs.named(event)]

    storm(pool, fn, 1000)
    assert lines() == [None] * 100
    clock.advance(0.5)
    storm(pool, fn, 20)
    assert lines() == [None] * 100 + [900, None, None, None, None]
    clock.advance(1.0)
    storm(pool, fn, 1)
    assert lines()[105:] == [15]
    counted = registry.get_sample_value("workerpool_completed_total", {"pool": "test", "result": label})
    assert counted == 1021, "the metrics count every one"


@pytest.mark.parametrize("teller", ["tick", "stop"])
def test_what_was_held_back_is_told_in_the_end(make_pool: MakePool, logs: Logs, teller: str) -> None:
    """After a storm that nothing follows the watchdog's tick, or the stop, says how many were held back."""
    pool = make_pool(1, clock=ManualClock())
    tick = ticks(pool)
    storm(pool, boom, 130)
    if teller == "tick":
        tick()
        tick()
    pool.stop()
    summary = entry("warning", "task.error", suppressed=30, summary=True)
    assert logs.named("task.error")[100:] == [summary]


def test_storms_do_not_silence_other_events(make_pool: MakePool, logs: Logs) -> None:
    """A storm of errors holds back no panic."""
    pool = make_pool(1, clock=ManualClock())
    ticks(pool)
    storm(pool, boom, 150)
    storm(pool, leave, 1)
    pool.stop()
    assert logs.events.count("task.panic") == 1


def test_nothing_is_lost_between_threads(make_pool: MakePool, logs: Logs) -> None:
    """Lines written and lines held back add up to the failures, whichever threads they came from."""
    pool = make_pool(4, queue_capacity=100, overload="block")
    submitters = [threading.Thread(target=lambda: storm(pool, boom, 150)) for _ in range(4)]
    for thread in submitters:
        thread.start()
    for thread in submitters:
        thread.join(PATIENCE)
    pool.stop()
    lines = logs.named("task.error")
    held_back = sum(int(line.get("suppressed", 0)) for line in lines)
    written = sum("summary" not in line for line in lines)
    assert written + held_back == 600
    assert held_back > 0


def test_fields_never_collide(make_pool: MakePool, logs: Logs) -> None:
    """Awkward task names are values like any other."""
    pool = make_pool(1)
    names: list[Any] = ["event", "%s %d", "{}", "a b", "é" * 200, "pool=other"]
    for name in names:
        pool.options(task=name).submit(boom).exception(PATIENCE)
    logs.wait_for("task.error", count=len(names))
    assert [line["task"] for line in logs.named("task.error")] == names
