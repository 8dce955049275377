"""A stop may be asked for twice, from two threads, from inside, by a signal; there is one, and one report."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from prodpool import PoolClosedError, Reason, StopReport
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import LEEWAY, PATIENCE, ThreadRunner
from tests.support import Logs, MakePool


def test_twice(make_pool: MakePool, hold: BlockingTask, logs: Logs) -> None:
    """Later stops return the first one's report and do nothing more."""
    pool = make_pool(1)
    occupy(pool, hold, 1)
    first = pool.stop(0.05)
    logs.wait_for("pool.stopped")
    seen = list(logs.events)
    assert pool.stop(0.05) is first
    assert pool.stop() is first
    pool.shutdown()
    assert logs.events == seen


def test_two_threads(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs) -> None:
    """Two that stop at once get the same report, and the pool is stopped once."""
    pool = make_pool(1)
    occupy(pool, hold, 1)
    start = threading.Barrier(8)

    def stop() -> StopReport:
        start.wait(PATIENCE)
        return pool.stop(0.2)

    reports = [crew.start(stop) for _ in range(8)]
    told = {id(report.result(PATIENCE)): report.result(PATIENCE) for report in reports}
    assert len(told) == 1
    assert [len(report.abandoned) for report in told.values()] == [1]
    assert logs.events.count("pool.draining") == logs.events.count("pool.stopped") == 1


def test_a_later_call_shortens_the_deadline(
    make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs
) -> None:
    """A second, shorter deadline holds for both."""
    pool = make_pool(1)
    occupy(pool, hold, 1)
    patient = crew.start(pool.stop, 60.0)
    logs.wait_for("pool.draining")
    began = time.monotonic()
    report = pool.stop(0.1)
    assert time.monotonic() - began < 0.1 + LEEWAY
    assert patient.result(PATIENCE) is report
    assert len(report.abandoned) == 1


def test_a_later_call_does_not_prolong_the_deadline(
    make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs
) -> None:
    """A second, longer deadline changes nothing."""
    pool = make_pool(1)
    occupy(pool, hold, 1)
    first = crew.start(pool.stop, 0.2)
    logs.wait_for("pool.draining")
    assert pool.stop(60.0).elapsed < 0.2 + LEEWAY
    assert first.result(PATIENCE) is pool.stop()


def test_inside_a_task(make_pool: MakePool) -> None:
    """A task that stops its own pool is told that it would wait for itself, and the pool works on."""
    pool = make_pool(1)
    with pytest.raises(RuntimeError, match="inside a task of pool 'test'"):
        pool.submit(pool.stop).result(PATIENCE)
    with pytest.raises(RuntimeError, match="shutdown\\(wait=False\\)"):
        pool.submit(pool.shutdown).result(PATIENCE)
    assert pool.submit(int).result(PATIENCE) == 0


def test_inside_a_task_without_waiting(make_pool: MakePool) -> None:
    """A task may begin its pool's stop, which then lets that task finish."""
    pool = make_pool(1)

    def close() -> str:
        pool.shutdown(wait=False)
        with pytest.raises(PoolClosedError):
            pool.submit(int)
        return "closed"

    assert pool.submit(close).result(PATIENCE) == "closed"
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed) == (True, 1)


def test_inside_another_pools_task(make_pool: MakePool) -> None:
    """A task of one pool may stop another."""
    pool, other = make_pool(1), make_pool(1)
    assert other.submit(pool.stop, PATIENCE).result(PATIENCE).drained


def test_inside_a_task_of_the_caller(make_pool: MakePool, hold: BlockingTask) -> None:
    """A task that its caller runs holds no worker, so it may stop the pool."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    occupy(pool, hold, 1)
    report = pool.submit(pool.stop, 0.05).result(0)
    assert len(report.abandoned) == 1
    assert counts_add_up(pool.stats())


def test_shutdown_without_waiting(make_pool: MakePool, hold: BlockingTask) -> None:
    """``shutdown(wait=False)`` returns at once, refuses new tasks from then on and lets the others finish."""
    pool = make_pool(1)
    (running,) = occupy(pool, hold, 1)
    queued = pool.submit(int)
    pool.shutdown(wait=False)
    with pytest.raises(PoolClosedError):
        pool.submit(int)
    assert pool.stats().state == "draining"
    hold.release()
    assert (running.result(PATIENCE), queued.result(PATIENCE)) == (None, 0)
    assert pool.stop(PATIENCE).drained


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_cancels_futures(
    make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, wait: bool
) -> None:
    """``cancel_futures=True`` drops what waits at once and lets what runs finish."""
    pool = make_pool(1)
    (running,) = occupy(pool, hold, 1)
    queued = [pool.submit(int) for _ in range(2)]
    dropped = threading.Event()
    queued[-1].add_done_callback(lambda _: dropped.set())
    done = crew.start(lambda: pool.shutdown(wait=wait, cancel_futures=True))
    assert dropped.wait(PATIENCE)
    assert all(future.cancelled() for future in queued)
    assert not running.done()
    hold.release()
    done.result(PATIENCE)
    report = pool.stop(PATIENCE)
    assert (report.drained, report.completed, report.dropped, report.abandoned) == (False, 1, 2, ())
    assert check(pool.stats()).dropped[Reason.SHUTDOWN] == 2


def test_with(make_pool: MakePool, hold: BlockingTask) -> None:
    """Leaving ``with`` takes no longer than the pool's drain deadline, whatever hangs; the error passes."""
    pool = make_pool(1, drain_deadline=0.1)
    began = time.monotonic()

    def leave_with() -> None:
        with pool:
            occupy(pool, hold, 1)
            raise LookupError

    with pytest.raises(LookupError):
        leave_with()
    assert time.monotonic() - began < 0.1 + LEEWAY
    assert len(pool.stop().abandoned) == 1


def test_keyboard_interrupt(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs) -> None:
    """Ctrl-C ends the waiting and not the stop, whose report can be had later."""
    pool = make_pool(1)
    (running,) = occupy(pool, hold, 1)

    def interrupt() -> None:
        logs.wait_for("pool.draining")
        # To the thread, so that it is woken from where it waits.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupted = crew.start(interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.stop(60.0)
    interrupted.result(PATIENCE)
    assert pool.stats().state == "draining"
    hold.release()
    report = pool.stop(60.0)
    assert (report.drained, report.completed, running.result(0)) == (True, 1, None)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.skipif(
    not hasattr(threading, "get_native_id") or sys.platform == "win32", reason="needs signals"
)
def test_signal_handlers() -> None:
    """Stops in signal handlers, on top of whatever submit was doing, end in time and lose no task."""
    program = Path(__file__).parent / "programs" / "signalled.py"
    done = subprocess.run(
        [sys.executable, str(program), "20"], capture_output=True, text=True, check=False, timeout=150
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout


async def test_on_an_event_loop(make_pool: MakePool, hold: BlockingTask) -> None:
    """A coroutine stops the pool from a thread and goes on meanwhile."""
    pool = make_pool(1)
    running = await pool.submit_async(hold, 5)
    await asyncio.to_thread(hold.wait_started)
    stopping = asyncio.create_task(asyncio.to_thread(pool.stop, PATIENCE))
    hold.release()
    assert await running == 5
    assert (await stopping).drained
