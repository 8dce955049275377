"""The watchdog: one thread that speaks up while a task hangs, and the gauges that tell the same."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import PoolFullError, TaskExpiredError
from prodpool.concurrency.background_thread import THREAD_NAME, BackgroundThread
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.support import Logs, MakePool
from tests.telemetry.scraping import value
from tests.telemetry.ticking import ticks
from tests.telemetry.tracer import Spans


def watchdog_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def deliver_to_a_customer_who_hangs(gate: BlockingTask) -> None:
    """Stand for the user's function that blocks."""
    gate()


def test_a_hung_task_is_logged_while_it_hangs(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """At hung_after, and whenever that has doubled, there is a line with the worker's live stack."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=60.0)
    tick = ticks(pool)
    pool.options(task="deliver").submit(deliver_to_a_customer_who_hangs, gate)
    gate.wait_started()
    for _ in range(50):
        clock.advance(10.0)
        tick()
    lines = logs.named("task.still_running")
    assert [line["elapsed"] for line in lines] == [60.0, 120.0, 240.0, 480.0]
    for line in lines:
        stack = str(line.pop("stack"))
        assert line == {
            "event": "task.still_running",
            "log_level": "warning",
            "pool": "test",
            "task": "deliver",
            "elapsed": line["elapsed"],
        }
        # From the task's own outermost frame to where it is right now; none of the pool's frames above.
        assert f"in {deliver_to_a_customer_who_hangs.__name__}" in stack.splitlines()[0]
        assert "in __call__" in stack
        assert "in wait" in stack
        assert f"{Path(prodpool.__file__).parent}/" not in stack


def test_ticks_that_come_late(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """A tick that comes late tells the true time, and the next line comes when that has doubled."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=60.0)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()
    for seconds in (59.0, 16.0, 60.0, 15.0, 15.0):
        clock.advance(seconds)
        tick()
    assert [line["elapsed"] for line in logs.named("task.still_running")] == [75.0, 150.0]


def test_the_next_task_of_a_worker_begins_anew(make_pool: MakePool, logs: Logs) -> None:
    """After a task that hung, the next one on that worker has its own hung_after."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=60.0)
    tick = ticks(pool)
    for name in ("first", "second"):
        gate = BlockingTask()
        future = pool.options(task=name).submit(gate)
        gate.wait_started()
        for _ in range(13):
            clock.advance(10.0)
            tick()
        gate.release()
        future.result(PATIENCE)
    assert [(line["task"], line["elapsed"]) for line in logs.named("task.still_running")] == [
        ("first", 60.0),
        ("first", 120.0),
        ("second", 60.0),
        ("second", 120.0),
    ]


def test_each_hung_task_by_itself(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """Every worker that hangs has its lines, at its own times; one that does not has none."""
    clock = ManualClock()
    pool = make_pool(3, clock=clock, hung_after=60.0)
    tick = ticks(pool)
    for name in ("early", "late", "latest"):
        pool.options(task=name).submit(gate)
        gate.wait_started()
        clock.advance(25.0)
        tick()
    clock.advance(10.0)
    tick()
    assert [(line["task"], line["elapsed"]) for line in logs.named("task.still_running")] == [
        ("early", 75.0),
        ("late", 60.0),
    ]


def test_the_line_leads_to_the_trace(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """The line of a traced task bears the ids of its span, which has not ended yet."""
    clock, spans = ManualClock(), Spans()
    pool = make_pool(1, clock=clock, hung_after=60.0, tracer_provider=spans.provider)
    tick = ticks(pool)
    with spans.tracer.start_as_current_span("request") as request:
        pool.submit(gate)
    gate.wait_started()
    clock.advance(60.0)
    tick()
    line = logs.wait_for("task.still_running")
    assert line["trace_id"] == f"{request.get_span_context().trace_id:032x}"
    assert len(line["span_id"]) == 16


def test_a_task_that_waits_for_a_hung_one(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """Where a task runs another one that it waits for, the line shows the stack down to where it hangs."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, hung_after=60.0)
    tick = ticks(pool)

    def outer() -> None:
        pool.options(task="inner").submit(deliver_to_a_customer_who_hangs, gate).result(PATIENCE)

    pool.options(task="outer").submit(outer)
    gate.wait_started()
    clock.advance(60.0)
    tick()
    stack = str(logs.wait_for("task.still_running")["stack"])
    assert stack.index("in outer") < stack.index(f"in {deliver_to_a_customer_who_hangs.__name__}")


def test_the_gauges_tell_the_same(
    make_pool: MakePool, registry: CollectorRegistry, gate: BlockingTask
) -> None:
    """While tasks hang the scrape shows it without any tick, exactly from hung_after on; then it is over."""
    clock = ManualClock()
    pool = make_pool(2, clock=clock, hung_after=60.0)

    def gauges() -> tuple[float, ...]:
        names = ("oldest_queued_seconds", "longest_running_seconds", "hung_tasks")
        return tuple(value(registry, f"workerpool_{name}") for name in names)

    def advance(seconds: float) -> tuple[float, ...]:
        clock.advance(seconds)
        return gauges()

    assert gauges() == (0, 0, 0)
    pool.submit(gate)
    gate.wait_started()
    seen = [advance(20.0)]
    pool.submit(gate)
    gate.wait_started()
    last = [pool.submit(len, ""), pool.submit(len, "")]
    seen += [advance(39.0), advance(1.0), advance(20.0)]
    last[0].cancel()
    seen.append(advance(5.0))
    assert seen == [(0, 20, 0), (39, 59, 0), (40, 60, 1), (60, 80, 2), (65, 85, 2)]
    stats = pool.stats()
    assert (stats.oldest_queued, stats.longest_running, stats.hung) == seen[-1]
    busy = value(registry, "workerpool_busy_seconds_total")
    assert busy == 85 + 65
    gate.release()
    last[1].result(PATIENCE)
    pool.stop()
    assert gauges() == (0, 0, 0)
    assert value(registry, "workerpool_busy_seconds_total") == busy


def test_a_callback_that_hangs(
    make_pool: MakePool, registry: CollectorRegistry, logs: Logs, gate: BlockingTask
) -> None:
    """A done-callback that hangs is seen like a task: in numbers, lines and dump; the task itself is over."""
    clock, task = ManualClock(), BlockingTask()
    pool = make_pool(1, clock=clock, hung_after=60.0)
    tick = ticks(pool)
    future = pool.options(task="deliver").submit(task)
    task.wait_started()
    future.add_done_callback(lambda _: deliver_to_a_customer_who_hangs(gate))
    clock.advance(5.0)
    task.release()
    gate.wait_started()

    def seen() -> tuple[float, ...]:
        tick()
        stats = pool.stats()
        names = ("longest_running_seconds", "hung_tasks")
        assert tuple(value(registry, f"workerpool_{name}") for name in names) == (
            stats.longest_running,
            stats.hung,
        )
        return stats.running, stats.longest_running, stats.hung

    for seconds, expected in ((59.0, (0, 59, 0)), (1.0, (0, 60, 1)), (60.0, (0, 120, 1))):
        clock.advance(seconds)
        assert seen() == expected
    assert value(registry, "workerpool_busy_seconds_total") == 5
    lines = logs.named("task.still_running")
    assert [(line["task"], line["elapsed"]) for line in lines] == [
        ("a done-callback of deliver", 60.0),
        ("a done-callback of deliver", 120.0),
    ]
    assert all(f"in {deliver_to_a_customer_who_hangs.__name__}" in line["stack"] for line in lines)
    dumped = pool.dump()
    assert "a done-callback of deliver, for 120 s in thread " in dumped
    assert f"in {deliver_to_a_customer_who_hangs.__name__}" in dumped
    gate.release()
    pool.submit(int).result(PATIENCE)
    assert seen() == (0, 0, 0)
    assert value(registry, "workerpool_busy_seconds_total") == 5


def test_expired_tasks_do_not_wait_for_a_worker(make_pool: MakePool, gate: BlockingTask) -> None:
    """While all workers hang a tick drops what has expired, so that its callers need not hang as well."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, queue_capacity=2)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()
    expiring, patient = pool.options(deadline=5.0).submit(len, ""), pool.submit(len, "")
    with pytest.raises(PoolFullError):
        pool.submit(len, "")
    clock.advance(4.0)
    tick()
    assert not expiring.done()
    clock.advance(1.0)
    tick()
    assert isinstance(expiring.exception(0), TaskExpiredError)
    assert not patient.done()
    pool.submit(len, "in its place")


# The thread


def test_one_thread_for_all_pools(make_pool: MakePool) -> None:
    """There is one watchdog thread, a daemon, however many pools are in use, and none after the last."""
    until(lambda: not watchdog_threads())
    pools = [make_pool(1, name=f"pool_{number}") for number in range(5)]
    assert watchdog_threads() == []
    for pool in pools:
        pool.submit(int).result(PATIENCE)
    threads = watchdog_threads()
    assert len(threads) == 1
    assert threads[0].daemon
    for pool in pools[:-1]:
        pool.stop()
    assert watchdog_threads() == threads
    pools[-1].stop()
    until(lambda: not watchdog_threads())
    make_pool(1, name="after_all").submit(int).result(PATIENCE)
    assert len(watchdog_threads()) == 1


def test_it_stays_for_a_thread_that_hangs(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """After a stop that had to abandon a task the watchdog goes on until that task ends after all."""
    until(lambda: not watchdog_threads())
    pool = make_pool(1, hung_after=0.2)
    pool.submit(gate)
    gate.wait_started()
    assert pool.stop(deadline=0).abandoned == ("BlockingTask",)
    assert len(watchdog_threads()) == 1
    logs.wait_for("task.still_running")
    gate.release()
    until(lambda: not watchdog_threads())


def test_it_ticks_by_itself(make_pool: MakePool, logs: Logs, gate: BlockingTask) -> None:
    """Without anybody's doing a task that hangs is logged."""
    make_pool(1, hung_after=0.02).submit(deliver_to_a_customer_who_hangs, gate)
    line = logs.wait_for("task.still_running", count=2)
    assert deliver_to_a_customer_who_hangs.__name__ in str(line["stack"])


def test_a_tick_that_hangs_in_one_log(make_pool: MakePool, gate: BlockingTask) -> None:
    """A pool can be made, used and stopped while the watchdog is stuck in another pool's log."""
    import structlog

    stuck = threading.Event()

    def processor(_logger: object, _method: str, event: Any) -> Any:
        if event["event"] == "task.still_running":
            stuck.set()
            gate()
        raise structlog.DropEvent

    bad = make_pool(1, hung_after=0.02, logger=structlog.wrap_logger(None, processors=[processor]))
    bad.submit(gate)
    assert stuck.wait(PATIENCE)
    good = make_pool(1, name="good")
    assert good.submit(len, "four").result(PATIENCE) == 4
    assert good.stop(deadline=1.0).drained


held: ContextVar[str | None] = ContextVar("held", default=None)


def test_it_keeps_nobody_s_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread is started in an empty context: it would keep the span of the pool's maker for ever."""
    seen: list[object] = []
    start = threading.Thread.start

    class Looking:
        interval = 0.001

        def tick(self) -> None:
            seen.append(held.get())

    def looking_start(thread: threading.Thread) -> None:
        # What a thread is started with is what it keeps, from 3.14 on.
        seen.append(held.get())
        start(thread)

    background_thread, looking = BackgroundThread(), Looking()

    def begin() -> None:
        held.set("a span")
        background_thread.add_periodic(looking)

    monkeypatch.setattr(threading.Thread, "start", looking_start)
    copy_context().run(begin)
    until(lambda: len(seen) >= 3)
    background_thread.remove_periodic(looking)
    until(lambda: background_thread._thread is None)
    assert set(seen) == {None}


def test_each_at_its_own_interval() -> None:
    """What is watched is ticked at its own interval; what is no longer watched is not."""
    ticked: dict[str, list[float]] = {"fast": [], "slow": []}

    class Periodic:
        def __init__(self, name: str, interval: float) -> None:
            self.name = name
            self.interval = interval

        def tick(self) -> None:
            ticked[self.name].append(time.monotonic())

    background_thread, fast, slow = BackgroundThread(), Periodic("fast", 0.002), Periodic("slow", 3600.0)
    background_thread.add_periodic(slow)
    background_thread.add_periodic(fast)
    until(lambda: len(ticked["fast"]) >= 5)
    background_thread.remove_periodic(fast)
    background_thread.remove_periodic(slow)
    until(lambda: background_thread._thread is None)
    assert ticked["slow"] == []
    gaps = [later - earlier for earlier, later in zip(ticked["fast"], ticked["fast"][1:], strict=False)]
    assert min(gaps) >= 0.001


@pytest.mark.parametrize("hung_after", [0.01, 1.0, 60.0, float("inf")])
def test_the_interval_fits_the_threshold(make_pool: MakePool, hung_after: float) -> None:
    """The watchdog looks ten times per threshold, but never more often than 50 times a second."""
    interval = make_pool(1, hung_after=hung_after)._engine.watchdog.interval
    assert 0.02 <= interval <= 1.0
    assert interval <= max(0.02, hung_after / 10)


def test_a_stack_of_a_thread_that_is_gone(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, gate: BlockingTask
) -> None:
    """A worker whose thread cannot be found is reported all the same."""
    clock = ManualClock()
    logs = Logs()
    pool = make_pool(1, clock=clock, hung_after=60.0, logger=logs.logger)
    tick = ticks(pool)
    pool.submit(gate)
    gate.wait_started()
    clock.advance(60.0)
    monkeypatch.setattr(sys, "_current_frames", dict)
    tick()
    assert "the thread is gone" in str(logs.wait_for("task.still_running")["stack"])


def test_a_start_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system had no thread to give, the next pool gets its watchdog all the same."""

    class Ticked:
        interval = 0.01

        def __init__(self) -> None:
            self.ticked = threading.Event()

        def tick(self) -> None:
            self.ticked.set()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    background_thread, unlucky, lucky = BackgroundThread(), Ticked(), Ticked()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            background_thread.add_periodic(unlucky)
    background_thread.add_periodic(lucky)
    assert lucky.ticked.wait(PATIENCE)
    assert not unlucky.ticked.is_set()
    background_thread.remove_periodic(lucky)


def test_a_note_left_to_nobody() -> None:
    """Without a pool there is nothing that a note could be about: it is dropped, with all that it holds."""

    def note() -> None:
        """Never called."""

    left = weakref.ref(note)
    background_thread = BackgroundThread()
    background_thread.call_soon(note)
    del note
    assert left() is None


def test_a_note_left_to_the_last_tick() -> None:
    """What the thread is told before it ends it still does."""
    called = threading.Event()

    class Last:
        interval = 0.001

        def tick(self) -> None:
            background_thread.remove_periodic(self)
            background_thread.call_soon(called.set)

    background_thread = BackgroundThread()
    background_thread.add_periodic(Last())
    assert called.wait(PATIENCE)
    until(lambda: background_thread._thread is None)


class OutOfMemory(float):
    """Seconds for whose sum with others there is no memory the first time."""

    failed = False

    def __radd__(self, other: float) -> float:
        if not self.failed:
            self.failed = True
            raise MemoryError
        return other + float(self)


def test_it_outlives_a_failed_allocation() -> None:
    """An allocation that fails in its own thread costs a tick and not the watch over every pool."""

    class Periodic:
        def __init__(self) -> None:
            self.interval = 0.001
            self.ticked = threading.Event()

        def tick(self) -> None:
            self.ticked.set()

    background_thread, first, second = BackgroundThread(), Periodic(), Periodic()
    background_thread.add_periodic(first)
    fails = first.interval = OutOfMemory(0.001)
    until(lambda: fails.failed)
    background_thread.add_periodic(second)
    for each in (first, second):
        each.ticked.clear()
        assert each.ticked.wait(PATIENCE)
        background_thread.remove_periodic(each)
