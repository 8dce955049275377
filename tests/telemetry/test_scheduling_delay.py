"""How late the watchdog's thread wakes: a sample is true lateness, one for all pools of the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from prodpool.concurrency.background_thread import BackgroundThread, Wake, background_thread
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.support import MakePool
from tests.telemetry.scraping import value
from tests.telemetry.ticking import ticks

NAME = "workerpool_scheduling_delay_seconds"


class Ticked:
    """Something to tick, which notes the newest wake each time in a list that several may share."""

    def __init__(
        self,
        thread: BackgroundThread,
        interval: float,
        *,
        log: list[tuple[Ticked, Wake | None]] | None = None,
        tick: Callable[[], object] = bool,
    ) -> None:
        self.interval = interval
        self._thread = thread
        self._log = [] if log is None else log
        self._tick = tick

    def tick(self) -> None:
        self._log.append((self, self._thread.last_wake))
        self._tick()


def hold_the_interpreter(seconds: float) -> float:
    """Let no other thread run Python for at least so many seconds; return how many it was."""
    began, numbers = time.monotonic(), 1_000_000
    while True:
        before = time.monotonic()
        sum(range(numbers))  # one call in C, in which the lock of the interpreter is kept
        took = time.monotonic() - before
        if took >= seconds:
            return took
        assert time.monotonic() - began < PATIENCE
        numbers *= 2


def test_a_call_that_keeps_the_interpreter(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool that does nothing shows how long another one's task has kept every thread from running."""
    busy, idle = make_pool(1, name="busy"), make_pool(1, name="idle", hung_after=0.2)
    idle.submit(len, "").result(PATIENCE)
    until(lambda: value(registry, f"{NAME}_count", pool="idle") >= 2)

    def is_seen() -> bool:
        # The thread may be in the midst of a tick when the call begins: it is not late for anything then.
        before = value(registry, f"{NAME}_sum", pool="idle")
        took = busy.submit(hold_the_interpreter, 0.3).result(PATIENCE)
        count = value(registry, f"{NAME}_count", pool="idle")
        until(lambda: value(registry, f"{NAME}_count", pool="idle") > count)
        # It was due within its interval of 0.02 s.
        return value(registry, f"{NAME}_sum", pool="idle") - before >= took - 0.05

    until(is_seen)


def test_the_ticks_of_others_are_no_delay() -> None:
    """What was due while another tick took its time is no sample of how late the system wakes a thread."""
    thread, gate = BackgroundThread(), BlockingTask()
    log: list[tuple[Ticked, Wake | None]] = []
    fast, slow = Ticked(thread, 0.01, log=log), Ticked(thread, 0.1, log=log, tick=gate)
    thread.add_periodic(fast)  # first, so that of a round it is ticked before the other one
    thread.add_periodic(slow)
    gate.wait_started()
    overdue = time.monotonic() + 3 * fast.interval
    until(lambda: time.monotonic() > overdue)
    ticked = len(log)
    gate.release()
    until(lambda: len(log) > ticked)
    assert log[ticked - 1 : ticked + 1] == [(slow, log[ticked - 1][1]), (fast, log[ticked - 1][1])]
    assert log[ticked][1] is log[ticked - 1][1]
    for each in (fast, slow):
        thread.remove_periodic(each)


def test_a_wake_for_a_call_is_no_sample() -> None:
    """A thread that is woken early by a call was not late."""
    thread = BackgroundThread()
    idle = Ticked(thread, 3600.0)
    thread.add_periodic(idle)
    for _ in range(3):
        called = threading.Event()
        assert thread.call_soon(called.set)
        assert called.wait(PATIENCE)
    assert thread.last_wake is None
    thread.remove_periodic(idle)


def test_every_pool_has_the_number(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Each pool that is used observes the delay of the one thread, at its own ticks; an unused one none."""
    for name in ("first", "second", "unused"):
        pool = make_pool(1, name=name, hung_after=0.2)
        if name != "unused":
            pool.submit(len, "").result(PATIENCE)
    for name in ("first", "second"):
        until(partial(_has_samples, registry, name))
    assert value(registry, f"{NAME}_count", pool="unused") == 0


def _has_samples(registry: CollectorRegistry, pool: str) -> bool:
    return value(registry, f"{NAME}_count", pool=pool) >= 5


def test_a_sample_is_observed_once(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A tick for which there is no new sample observes none."""
    pool = make_pool(1)
    pool.submit(len, "").result(PATIENCE)
    until(lambda: background_thread().last_wake)
    tick = ticks(pool)
    tick()

    def is_seen() -> bool:
        wake, count = background_thread().last_wake, value(registry, f"{NAME}_count")
        for _ in range(3):
            tick()
        counted = value(registry, f"{NAME}_count")
        if background_thread().last_wake is not wake:
            return False  # of another pool of this process, which is being stopped
        assert counted <= count + 1
        return counted == count

    until(is_seen)


def test_a_stopped_pool_observes_no_more(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """What a stopped pool has observed stays, and does not grow while others of the process go on."""
    stopped, other = (make_pool(1, name=name, hung_after=0.2) for name in ("stopped", "other"))
    for pool in (stopped, other):
        _use(pool)
    until(partial(_has_samples, registry, "stopped"))
    stopped.stop()
    until(lambda: stopped._engine.watchdog not in background_thread()._due)
    count = value(registry, f"{NAME}_count", pool="stopped")
    more = value(registry, f"{NAME}_count", pool="other") + 3
    until(lambda: value(registry, f"{NAME}_count", pool="other") >= more)
    assert 5 <= count <= value(registry, f"{NAME}_count", pool="stopped") <= count + 1


def _use(pool: InstrumentedPool) -> None:
    pool.submit(len, "").result(PATIENCE)
