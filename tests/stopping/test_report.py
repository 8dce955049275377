"""What a stop reports and logs, and what becomes of each task."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ALL_COMPLETED, CancelledError, as_completed, wait

import pytest

import prodpool
from prodpool import CurrentTask, Reason, Result, WorkerLostError, current_task
from prodpool.shutdown import at_exit, phases
from tests.helpers.accounting import check, counts_add_up
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import LEEWAY, PATIENCE, ThreadRunner, until
from tests.support import PACKAGE, Logs, MakePool


def test_drained(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs) -> None:
    """A stop with time enough finishes what runs and what waits, and counts only that."""
    pool = make_pool(2)
    pool.submit(int).result(PATIENCE)  # before the stop, so not in its report
    running = occupy(pool, hold, 2)
    queued = [pool.submit(int) for _ in range(3)]
    report = crew.start(pool.stop, PATIENCE)
    began = logs.wait_for("pool.draining")
    hold.release()
    told = report.result(PATIENCE)
    assert (told.drained, told.completed, told.dropped, told.abandoned) == (True, 5, 0, ())
    assert 0 <= told.elapsed < PATIENCE
    assert [future.result(0) for future in running + queued] == [None, None, 0, 0, 0]
    assert (began["queue_depth"], began["running"]) == (3, 2)
    ended = logs.wait_for("pool.stopped")
    assert {name: ended[name] for name in ("drained", "dropped", "abandoned", "elapsed")} == {
        "drained": True,
        "dropped": 0,
        "abandoned": 0,
        "elapsed": round(told.elapsed, 6),
    }
    assert check(pool.stats()).submitted == 6


def test_deadline(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs) -> None:
    """At the deadline what waits is dropped and what runs is abandoned; each is counted and named."""
    pool = make_pool(2)
    short = BlockingTask()
    ends_in_time = pool.submit(short)
    short.wait_started()
    hung = pool.options(task="first").submit(hold)
    hold.wait_started()
    also_hung = pool.options(task="second").submit(hold)
    queued = [pool.submit(int) for _ in range(2)]
    patient = crew.start(pool.stop, 60.0)
    logs.wait_for("pool.draining")
    short.release()
    hold.wait_started()
    # Not before: what ends in time and what begins in time is for the gates to say, and not for the clock.
    told = pool.stop(0.3)
    assert patient.result(PATIENCE) is told
    assert (told.drained, told.completed, told.dropped) == (False, 1, 2)
    assert sorted(told.abandoned) == ["first", "second"]
    assert 0.3 <= told.elapsed < 0.3 + LEEWAY
    assert ends_in_time.done()
    for future in queued:
        assert future.cancelled()
        with pytest.raises(CancelledError):
            future.result(0)
    for name, future in (("first", hung), ("second", also_hung)):
        with pytest.raises(WorkerLostError, match="stop deadline") as caught:
            future.result(0)
        assert (caught.value.pool, caught.value.task, caught.value.reason) == ("test", name, None)
    assert wait([*queued, hung, also_hung, ends_in_time], 0, ALL_COMPLETED).not_done == set()
    stats = pool.stats()
    assert counts_add_up(stats)
    assert (stats.state, stats.running, stats.dropped[Reason.SHUTDOWN]) == ("stopped", 2, 2)


@pytest.mark.parametrize("deadline", [0, 0.1])
def test_returns_in_time(make_pool: MakePool, hold: BlockingTask, deadline: float) -> None:
    """A stop returns at its deadline although a task never ends."""
    pool = make_pool(1)
    occupy(pool, hold, 1)
    began = time.monotonic()
    report = pool.stop(deadline)
    assert deadline <= time.monotonic() - began < deadline + LEEWAY
    assert len(report.abandoned) == 1


def test_daemon_threads(hold: BlockingTask, logs: Logs) -> None:
    """The same over daemon threads of our own."""
    pool = prodpool.threads(name="own", max_workers=1, logger=logs.logger)
    occupy(pool, hold, 1)
    report = pool.stop(0.05)
    assert (report.drained, len(report.abandoned)) == (False, 1)
    assert report.elapsed < 0.05 + LEEWAY
    hold.release()
    pool.close_metrics()


def test_log(
    make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log tells the stop from beginning to end, with progress in between and each hung task's stack."""
    monkeypatch.setattr(phases, "PROGRESS_EVERY", 0.01)
    pool = make_pool(1)
    pool.options(task="hung").submit(hold)
    hold.wait_started()
    pool.submit(int)
    crew.start(pool.stop, 60.0)
    logs.wait_for("pool.drain_progress", count=3)
    pool.stop(0.05)
    logs.wait_for("pool.stopped")
    events = [event for event in logs.events if event not in {"pool.created", "pool.dropping"}]
    progress = logs.named("pool.drain_progress")
    assert events == [
        "pool.draining",
        *["pool.drain_progress"] * len(progress),
        "pool.drain_deadline",
        "task.abandoned",
        "pool.stopped",
    ]
    assert [entry["remaining"] for entry in progress] == [2] * len(progress)
    assert sorted(entry["elapsed"] for entry in progress) == [entry["elapsed"] for entry in progress]
    (deadline,) = logs.named("pool.drain_deadline")
    assert (deadline["remaining"], deadline["log_level"]) == (2, "warning")
    (abandoned,) = logs.named("task.abandoned")
    assert (abandoned["task"], abandoned["log_level"], abandoned["pool"]) == ("hung", "error", "test")
    assert abandoned["elapsed"] >= deadline["elapsed"] >= progress[-1]["elapsed"] > 0
    assert "in __call__" in abandoned["stack"]
    assert str(PACKAGE) not in abandoned["stack"]
    (ended,) = logs.named("pool.stopped")
    assert (ended["drained"], ended["dropped"], ended["abandoned"]) == (False, 1, 1)
    # What was dropped is summed up as well, before the last word.
    assert logs.events.index("pool.dropping") < logs.events.index("pool.stopped")


def test_cooperative_tasks(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that watch their token end within the grace, and nothing is abandoned."""
    # A busy machine may need more than the usual for it.
    monkeypatch.setattr(phases, "CANCEL_GRACE", PATIENCE)
    pool = make_pool(2)
    begun = threading.Semaphore(0)

    def watch() -> bool:
        task = current_task()
        assert isinstance(task, CurrentTask)
        begun.release()
        return task.cancelled.wait(PATIENCE)

    futures = [pool.submit(watch) for _ in range(2)]
    for _ in futures:
        assert begun.acquire(timeout=PATIENCE)
    report = pool.stop(0.05)
    assert (report.drained, report.completed, report.dropped, report.abandoned) == (True, 2, 0, ())
    assert [future.result(0) for future in futures] == [True, True]


def test_token_asked_for_late(make_pool: MakePool, hold: BlockingTask) -> None:
    """A task that asks only after the deadline learns that it is cancelled."""
    pool = make_pool(1)

    def ask_later() -> bool:
        hold()
        task = current_task()
        assert task is not None
        return task.cancelled.is_set()

    answered: list[bool] = []
    future = pool.submit(lambda: answered.append(ask_later()))
    hold.wait_started()
    pool.stop(0)
    hold.release()
    until(lambda: answered)
    assert answered == [True]
    assert isinstance(future.exception(0), WorkerLostError)


@pytest.mark.parametrize(
    ("error", "result"), [(None, Result.OK), (TaskError(), Result.ERROR)], ids=["ok", "error"]
)
def test_late_end(
    make_pool: MakePool, hold: BlockingTask, logs: Logs, error: Exception | None, result: Result
) -> None:
    """An abandoned task that ends after all is counted and logged then; its future is not touched again."""
    pool = make_pool(1, hung_after=0.2)

    def task() -> None:
        hold()
        if error is not None:
            raise error

    future = pool.submit(task)
    hold.wait_started()
    heard: list[object] = []
    future.add_done_callback(heard.append)
    assert pool.stop(0).abandoned
    lost = future.exception(0)
    before = pool.stats()
    assert (before.running, sum(before.completed.values())) == (1, 0)
    assert counts_add_up(before)
    hold.release()
    until(lambda: pool.stats().running == 0)
    after = check(pool.stats())
    assert (after.completed[result], after.submitted) == (1, 1)
    assert future.exception(0) is lost
    until(lambda: heard)
    assert heard == [future]
    if error is not None:
        logs.wait_for("task.error")
    # Nothing refers to the pool any more that would keep it or the watchdog busy.
    until(lambda: pool._engine not in at_exit.exit_registry._left_behind)


def test_waiters_wake(make_pool: MakePool, hold: BlockingTask, crew: ThreadRunner) -> None:
    """Whoever waits on an abandoned or dropped task's future, in whatever way, goes on."""
    pool = make_pool(1)
    (running,) = occupy(pool, hold, 1)
    queued = pool.submit(int)
    both = [running, queued]
    waiting = [
        crew.start(running.exception, PATIENCE),
        crew.start(lambda: len(wait(both, PATIENCE).done)),
        crew.start(lambda: len(list(as_completed(both, PATIENCE)))),
    ]
    cancelled = crew.start(queued.result, PATIENCE)
    pool.stop(0.1)
    assert isinstance(waiting[0].result(PATIENCE), WorkerLostError)
    assert [each.result(PATIENCE) for each in waiting[1:]] == [2, 2]
    with pytest.raises(CancelledError):
        cancelled.result(PATIENCE)


def test_threads_are_gone(make_pool: MakePool) -> None:
    """After a stop neither threads of the backend nor of the stop itself are left."""
    before = set(threading.enumerate())
    pool = make_pool(4)
    for future in [pool.submit(int) for _ in range(8)]:
        future.result(PATIENCE)
    assert pool.stop(PATIENCE).drained
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert {name for name in left if name.startswith("ThreadPoolExecutor")} == set()
    until(lambda: {thread.name for thread in set(threading.enumerate()) - before} <= {"prodpool-watchdog"})
