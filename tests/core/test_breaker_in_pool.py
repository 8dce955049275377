"""The breaker inside a pool: it holds up nothing, and no way out of the pool keeps a permit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError

import pybreaker
import pytest

from prodpool import (
    BreakerOpenError,
    BreakerPolicy,
    InstrumentedPool,
    PoolClosedError,
    PoolFullError,
    Reason,
    Result,
    TaskExpiredError,
)
from prodpool.testing import ManualClock
from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner
from tests.support import Logs, MakePool

OPEN_FOR = 10.0


def boom() -> None:
    raise TaskError


def policy() -> BreakerPolicy:
    return BreakerPolicy(consecutive_failures=2, open_for=OPEN_FOR)


class Rig:
    """A pool with a breaker and a clock that is moved by hand."""

    def __init__(self, make_pool: MakePool, **options: object) -> None:
        self.clock = ManualClock(100.0)
        settings: dict[str, object] = {
            "breaker": policy(),
            "clock": self.clock,
            "hung_after": 1_000.0,
            **options,
        }
        self.pool: InstrumentedPool = make_pool(1, **settings)

    def trip(self) -> None:
        for _ in range(2):
            assert isinstance(self.pool.submit_wait(boom).exception(PATIENCE), TaskError)
        assert self.pool.stats().breaker == "open"

    def half_open(self) -> None:
        self.trip()
        self.clock.advance(OPEN_FOR)
        assert self.pool.stats().breaker == "half_open"

    @property
    def probes(self) -> int:
        breaker = self.pool._engine.breaker
        assert breaker is not None
        return len(breaker._probes)

    def closes_with_one_probe(self) -> None:
        """Prove that the one permit is there: a probe is let in and closes the breaker."""
        assert self.probes == 0
        assert self.pool.submit_wait(lambda: 7).result(PATIENCE) == 7
        assert self.pool.stats().breaker == "closed"
        check(self.pool.stats())


@pytest.fixture
def rig(make_pool: MakePool) -> Rig:
    return Rig(make_pool, queue_capacity=2)


@pytest.mark.parametrize(
    "breaker",
    [
        pytest.param(BreakerPolicy, id="policy"),
        pytest.param(
            lambda: BreakerPolicy(failure_rate=0.5, slow_call_rate=0.5, slow_after=60.0), id="window"
        ),
        pytest.param(pybreaker.CircuitBreaker, id="pybreaker"),
    ],
)
def test_eight_run_at_once(make_pool: MakePool, breaker: Callable[[], object]) -> None:
    """Eight tasks on eight workers with a breaker all run at once: each waits for the other seven."""
    pool = make_pool(8, breaker=breaker())
    meeting = threading.Barrier(8)
    for _ in range(5):
        futures = [pool.submit(meeting.wait, PATIENCE) for _ in range(8)]
        assert sorted(future.result(PATIENCE) for future in futures) == list(range(8))


def test_open_breaker_refuses(rig: Rig, logs: Logs) -> None:
    """An open breaker refuses each way of submitting, says when to come back, and counts the refusal."""
    rig.trip()
    rig.clock.advance(4.0)

    async def from_a_loop() -> None:
        await rig.pool.submit_async(int)

    ways: list[Callable[[], object]] = [
        lambda: rig.pool.submit(int),
        lambda: rig.pool.submit_wait(int),
        lambda: rig.pool.options(wait=1.0).submit(int),
        lambda: list(rig.pool.map(abs, [1])),
        lambda: asyncio.run(from_a_loop()),
    ]
    for way in ways:
        with pytest.raises(BreakerOpenError) as caught:
            way()
        assert (caught.value.pool, caught.value.reason) == ("test", Reason.BREAKER_OPEN)
        assert caught.value.retry_after == pytest.approx(OPEN_FOR - 4.0)
    stats = check(rig.pool.stats())
    assert (stats.submitted, stats.dropped[Reason.BREAKER_OPEN], stats.breaker) == (2, 5, "open")
    entry = logs.wait_for("breaker.changed")
    assert (entry["old"], entry["new"]) == ("closed", "open")


def test_recovery(rig: Rig, logs: Logs) -> None:
    """Closed, open, half-open with one probe at a time, closed again; and open again if the probe fails."""
    rig.half_open()
    hold = BlockingTask()
    probe = rig.pool.submit(hold)
    hold.wait_started()
    with pytest.raises(BreakerOpenError) as caught:
        rig.pool.submit(int)
    assert caught.value.retry_after is not None
    hold.release()
    assert probe.result(PATIENCE) is None
    assert rig.pool.stats().breaker == "closed"
    rig.half_open()
    assert isinstance(rig.pool.submit(boom).exception(PATIENCE), TaskError)
    assert rig.pool.stats().breaker == "open"
    logs.wait_for("breaker.changed", count=6)
    moves = [entry["new"] for entry in logs.named("breaker.changed")]
    assert moves == ["open", "half_open", "closed", "open", "half_open", "open"]


def test_closed_comes_before_open(rig: Rig) -> None:
    """A closed pool says that it is closed, whatever its breaker thinks."""
    rig.trip()
    rig.pool.stop(PATIENCE)
    with pytest.raises(PoolClosedError):
        rig.pool.submit(int)
    stats = check(rig.pool.stats())
    assert (stats.dropped[Reason.CLOSED], stats.dropped[Reason.BREAKER_OPEN]) == (1, 0)


# Each way in which a task that holds the only permit may fail to run gives the permit back.


def trip_with_all_busy(rig: Rig) -> None:
    """Have the breaker half-open while the only worker is busy."""
    breaker = rig.pool._engine.breaker
    assert breaker is not None
    for _ in range(2):
        breaker.record(breaker.acquire(), TaskError(), 0.0)
    rig.clock.advance(OPEN_FOR)
    assert rig.pool.stats().breaker == "half_open"


@pytest.mark.parametrize("way", ["submit", "wait", "submit_wait", "submit_async", "blocking", "map"])
def test_permit_back_when_full(rig: Rig, hold: BlockingTask, way: str) -> None:
    """A task refused for want of a slot gives its permit back, however it was refused."""
    occupy(rig.pool, hold, 1)
    for _ in range(2):
        rig.pool.submit(int)
    trip_with_all_busy(rig)

    async def from_a_loop() -> None:
        await rig.pool.options(wait=0.01).submit_async(int)

    async def blocking() -> None:
        rig.pool.options(wait=1.0).submit(int)

    ways: dict[str, Callable[[], object]] = {
        "submit": lambda: rig.pool.submit(int),
        "wait": lambda: rig.pool.options(wait=0.01).submit(int),
        "submit_wait": lambda: rig.pool.options(wait=0).submit_wait(int),
        "submit_async": lambda: asyncio.run(from_a_loop()),
        "blocking": lambda: asyncio.run(blocking()),
        "map": lambda: next(rig.pool.map(abs, [1], timeout=0.01)),
    }
    expected = {"blocking": RuntimeError, "map": TimeoutError}
    with pytest.raises(expected.get(way, PoolFullError)):
        ways[way]()
    assert rig.probes == 0
    check(rig.pool.stats())
    hold.release()
    rig.closes_with_one_probe()


def test_permit_back_when_cancelled(rig: Rig, hold: BlockingTask) -> None:
    """A queued probe that is cancelled gives its permit back, as often as that happens."""
    occupy(rig.pool, hold, 1)
    trip_with_all_busy(rig)
    for _ in range(3):
        probe = rig.pool.submit(int)
        assert rig.probes == 1
        assert probe.cancel()
        assert rig.probes == 0
    hold.release()
    rig.closes_with_one_probe()


def test_permit_back_when_expired(rig: Rig, hold: BlockingTask) -> None:
    """A queued probe that expires gives its permit back."""
    occupied = occupy(rig.pool, hold, 1)
    trip_with_all_busy(rig)
    probe = rig.pool.options(deadline=1.0).submit(int)
    rig.clock.advance(1.0)
    hold.release()
    assert isinstance(probe.exception(PATIENCE), TaskExpiredError)
    assert occupied[0].result(PATIENCE) is None
    rig.closes_with_one_probe()


def test_permit_back_at_shutdown(rig: Rig, hold: BlockingTask) -> None:
    """A queued probe that is dropped by a stop gives its permit back."""
    occupy(rig.pool, hold, 1)
    trip_with_all_busy(rig)
    probe = rig.pool.submit(int)
    rig.pool.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(CancelledError):
        probe.result(PATIENCE)
    assert rig.probes == 0
    assert check(rig.pool.stats()).dropped[Reason.SHUTDOWN] == 1


@pytest.mark.parametrize("way", ["thread", "coroutine"])
def test_permit_back_when_refused_at_close(rig: Rig, hold: BlockingTask, way: str) -> None:
    """A probe whose submitter stands in line when the pool closes gives its permit back."""
    occupy(rig.pool, hold, 1)
    for _ in range(2):
        rig.pool.submit(int)
    trip_with_all_busy(rig)

    async def from_a_loop() -> None:
        await rig.pool.submit_async(int)

    crew, line = ThreadRunner(), WatchedWaiters(rig.pool)
    if way == "thread":
        waiting = crew.start(rig.pool.submit_wait, int)
    else:
        waiting = crew.start(lambda: asyncio.run(from_a_loop()))
    line.wait()
    assert rig.probes == 1
    rig.pool.shutdown(wait=False)
    assert isinstance(waiting.exception(PATIENCE), PoolClosedError)
    assert rig.probes == 0
    hold.release()
    crew.join()


def test_permit_back_when_a_waiting_coroutine_is_cancelled(rig: Rig, hold: BlockingTask) -> None:
    """A coroutine that is cancelled in line gives its task's permit back."""
    occupy(rig.pool, hold, 1)
    for _ in range(2):
        rig.pool.submit(int)
    trip_with_all_busy(rig)
    line = WatchedWaiters(rig.pool)

    async def main() -> None:
        task = asyncio.create_task(rig.pool.submit_async(int))
        await asyncio.to_thread(line.wait)
        assert rig.probes == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert rig.probes == 0
    hold.release()
    rig.closes_with_one_probe()


def test_permit_back_inside_a_full_pool(make_pool: MakePool) -> None:
    """A nested submit that is refused because it would deadlock gives its permit back."""
    rig = Rig(make_pool, queue_capacity=0)

    def outer() -> int:
        trip_with_all_busy(rig)
        with pytest.raises(PoolFullError, match="would wait here"):
            rig.pool.submit_wait(int)
        return rig.probes

    assert rig.pool.submit(outer).result(PATIENCE) == 0
    rig.closes_with_one_probe()


def test_helped_probe_is_counted(rig: Rig) -> None:
    """A probe that is run by the task that waits for it closes the breaker like any other."""

    def outer() -> str | None:
        trip_with_all_busy(rig)
        assert rig.pool.submit(lambda: 7).result(PATIENCE) == 7
        return rig.pool.stats().breaker

    assert rig.pool.submit(outer).result(PATIENCE) == "closed"
    assert rig.probes == 0


def test_probe_run_by_its_caller_is_counted(make_pool: MakePool, hold: BlockingTask) -> None:
    """With ``caller_runs`` a probe that its caller runs closes the breaker, or opens it again."""
    rig = Rig(make_pool, queue_capacity=0, overload="caller_runs")
    occupy(rig.pool, hold, 1)
    trip_with_all_busy(rig)
    assert isinstance(rig.pool.submit(boom).exception(0), TaskError)
    assert rig.pool.stats().breaker == "open"
    rig.clock.advance(OPEN_FOR)
    assert rig.pool.submit(lambda: 7).result(0) == 7
    assert rig.pool.stats().breaker == "closed"


def test_rejections_and_cancellations_are_no_failures(make_pool: MakePool, hold: BlockingTask) -> None:
    """However many tasks are refused, cancelled or expired, the breaker stays closed."""
    rig = Rig(make_pool, queue_capacity=1)
    occupy(rig.pool, hold, 1)
    for _ in range(10):
        queued = rig.pool.submit(int)
        with pytest.raises(PoolFullError):
            rig.pool.submit(int)
        assert queued.cancel()
    late = rig.pool.options(deadline=1.0).submit(int)
    rig.clock.advance(1.0)
    hold.release()
    assert isinstance(late.exception(PATIENCE), TaskExpiredError)
    stats = check(rig.pool.stats())
    assert (stats.breaker, stats.completed[Result.OK]) == ("closed", 1)
