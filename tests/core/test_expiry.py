"""Tasks with a deadline: dropped unrun once it has passed, by whoever comes across them first."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prodpool import Reason, Result, TaskExpiredError, current_task
from prodpool.testing import ManualClock
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(100.0)


def test_expired_in_the_queue(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """A task whose deadline passed while it waited is dropped unrun by the worker that would have run it."""
    pool = make_pool(1, queue_capacity=5, clock=clock, hung_after=1_000.0)
    occupy(pool, hold, 1)
    ran: list[str] = []
    view = pool.options(deadline=2.0, task="late")
    late = view.submit(ran.append, "late")
    in_time = pool.options(deadline=2.1).submit(ran.append, "in time")
    forever = pool.submit(ran.append, "for ever")
    clock.advance(2.0)
    hold.release()
    error = late.exception(PATIENCE)
    assert isinstance(error, TaskExpiredError)
    assert (error.pool, error.task, error.reason) == ("test", "late", Reason.EXPIRED)
    assert (error.deadline, error.dwell) == (2.0, 2.0)
    assert (in_time.result(PATIENCE), forever.result(PATIENCE)) == (None, None)
    assert ran == ["in time", "for ever"]
    assert not late.cancelled()
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.dropped[Reason.EXPIRED]) == (4, 3, 1)


def test_expired_before_its_worker_is_up(make_pool: MakePool, clock: ManualClock) -> None:
    """A task that expires while its first worker is still starting up never runs."""
    backend = ThreadPoolExecutor(1)
    pool = make_pool(1, clock=clock)
    workers: Any = pool._engine.workers
    workers._backend = backend
    go = threading.Event()
    backend.submit(go.wait, PATIENCE)
    ran: list[int] = []
    future = pool.options(deadline=1.0).submit(ran.append, 1)
    clock.advance(1.0)
    go.set()
    assert isinstance(future.exception(PATIENCE), TaskExpiredError)
    assert not ran
    assert check(pool.stats()).dropped[Reason.EXPIRED] == 1
    pool.stop(PATIENCE)
    backend.shutdown()


def test_swept_while_every_worker_hangs(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """With all workers hung the watchdog drops what expired, so that nobody waits for a hung pool."""
    pool = make_pool(2, queue_capacity=5, clock=clock, hung_after=0.1)  # so that it looks every 20 ms
    occupied = occupy(pool, hold, 2)
    late = [pool.options(deadline=5.0).submit(int) for _ in range(3)]
    patient = pool.options(deadline=50.0).submit(lambda: 7)
    told = threading.Event()
    late[0].add_done_callback(lambda _: told.set())
    clock.advance(5.0)
    assert told.wait(PATIENCE)
    for future in late:
        assert isinstance(future.exception(PATIENCE), TaskExpiredError)
    assert not any(future.done() for future in occupied)
    stats = check(pool.stats())
    assert (stats.running, stats.queued, stats.dropped[Reason.EXPIRED]) == (2, 1, 3)
    assert [pool.submit(int) for _ in range(4)]  # the places are free again
    hold.release()
    assert patient.result(PATIENCE) == 7


def test_swept_while_paused(make_pool: MakePool, clock: ManualClock) -> None:
    """What expires in a paused pool is dropped as well."""
    pool = make_pool(1, clock=clock, hung_after=0.1)
    pool.pause()
    future = pool.options(deadline=5.0).submit(int)
    clock.advance(5.0)
    assert isinstance(future.exception(PATIENCE), TaskExpiredError)
    assert check(pool.stats()).queued == 0


def test_expired_task_is_not_run_by_who_waits_for_it(make_pool: MakePool, clock: ManualClock) -> None:
    """A task that waits inside the pool for an expired one gets the error; the expired one is not run."""
    pool = make_pool(1, clock=clock, hung_after=1_000.0)
    ran: list[int] = []

    def outer() -> BaseException | None:
        inner = pool.options(deadline=1.0).submit(ran.append, 1)
        clock.advance(1.0)
        return inner.exception(PATIENCE)

    assert isinstance(pool.submit(outer).result(PATIENCE), TaskExpiredError)
    assert not ran
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.dropped[Reason.EXPIRED]) == (1, 1)


def test_a_running_task_is_not_expired(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """A deadline is about waiting: a task that runs already goes on, and can see what is left of it."""
    pool = make_pool(1, clock=clock, hung_after=1_000.0)

    def remaining() -> list[float | None]:
        task = current_task()
        assert task is not None
        seen = [task.remaining]
        hold()
        return [*seen, task.remaining]

    future = pool.options(deadline=2.0).submit(remaining)
    hold.wait_started()
    clock.advance(5.0)
    hold.release()
    assert future.result(PATIENCE) == [2.0, 0.0]
    assert check(pool.stats()).dropped[Reason.EXPIRED] == 0


def test_cancelled_and_then_expired(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """A task is dropped once: one that was cancelled does not expire later."""
    pool = make_pool(1, clock=clock, hung_after=1_000.0)
    occupy(pool, hold, 1)
    future = pool.options(deadline=2.0).submit(int)
    assert future.cancel()
    clock.advance(3.0)
    pool._engine.settlement.drop_expired()
    stats = check(pool.stats())
    assert (stats.dropped[Reason.CANCELLED], stats.dropped[Reason.EXPIRED]) == (1, 0)


def test_a_callback_that_hangs_ends_no_watch(
    make_pool: MakePool, hold: BlockingTask, clock: ManualClock
) -> None:
    """A done-callback of an expired task may hang: tasks go on expiring, in that pool and in others."""
    pools = [make_pool(1, name=name, hung_after=0.1, clock=clock) for name in ("first", "second")]
    for pool in pools:
        occupy(pool, hold, 1)
    inside, leave = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        inside.set()
        leave.wait(PATIENCE)

    pools[0].options(deadline=1.0).submit(int).add_done_callback(hang)
    clock.advance(1.0)  # not before the callback is there, or it would be made here
    assert inside.wait(PATIENCE)
    for pool in pools:
        late = pool.options(deadline=1.0).submit(int)
        clock.advance(1.0)
        assert isinstance(late.exception(PATIENCE / 2), TaskExpiredError)
    leave.set()


def test_expired_after_a_wait_in_line(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """A task that came into the queue from the line is dropped in time even if every worker hangs."""
    pool = make_pool(1, queue_capacity=1, clock=clock, hung_after=1_000.0)
    occupy(pool, hold, 1)
    before = pool.submit(int)
    admitted: list[Any] = []
    view = pool.options(deadline=50.0)
    submitter = threading.Thread(target=lambda: admitted.append(view.submit_wait(int)))
    submitter.start()
    while not pool._engine.dispatcher.waiters.length:
        time.sleep(0.001)
    before.cancel()
    submitter.join(PATIENCE)
    clock.advance(51.0)
    pool._engine.watchdog.tick()
    assert isinstance(admitted[0].exception(0.5), TaskExpiredError)


def test_expired_and_dropped_by_nobody(make_pool: MakePool, hold: BlockingTask, clock: ManualClock) -> None:
    """Whoever is kept from dropping what has expired finds it again at the next look."""
    pool = make_pool(1, queue_capacity=5, clock=clock, hung_after=1_000.0)
    occupy(pool, hold, 1)
    pool.options(deadline=2.0).submit(int)
    dispatcher = pool._engine.dispatcher
    with dispatcher.lock:
        (task,) = dispatcher.expired(103.0)
        assert dispatcher.expired(103.0) == [task]
