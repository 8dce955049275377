"""A done-callback runs in the worker; while it does, that worker is in nobody's way."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner, until
from tests.support import MakePool


class Callback:
    """A done-callback that can be held."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.leave = threading.Event()

    def __call__(self, _: Future[Any]) -> None:
        self.inside.set()
        assert self.leave.wait(PATIENCE), "nobody let the callback go"


def test_a_callback_holds_up_no_other_task(make_pool: MakePool, hold: BlockingTask) -> None:
    """A pool that may have another worker starts it for a task that would wait for a callback."""
    pool, callback = make_pool(2), Callback()
    pool.submit(hold).add_done_callback(callback)
    hold.release()
    assert callback.inside.wait(PATIENCE)
    assert pool.submit(int).result(PATIENCE) == 0
    callback.leave.set()


def test_a_callback_does_not_get_past_the_line(make_pool: MakePool, hold: BlockingTask) -> None:
    """The place of a task that has ended is for whoever waits, not for what its callback submits."""
    pool = make_pool(1, queue_capacity=1)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    order: list[str] = []
    (first,) = occupy(pool, hold, 1)
    queued = pool.submit(order.append, "queued")
    waiter = crew.start(lambda: pool.submit_wait(order.append, "in line"))
    line.wait()
    refused: list[BaseException | None] = []
    crew_done = threading.Event()

    def submit_more(_: Future[Any]) -> None:
        refused.append(crew.start(lambda: pool.submit(order.append, "callback")).exception(PATIENCE))
        crew_done.set()

    first.add_done_callback(submit_more)
    hold.release()
    assert crew_done.wait(PATIENCE)
    waiter.result(PATIENCE).result(PATIENCE)
    queued.result(PATIENCE)
    crew.join()
    assert order == ["queued", "in line"]
    assert [type(error).__name__ for error in refused] == ["PoolFullError"]


def test_nothing_is_started_for_a_callback_of_a_paused_pool(make_pool: MakePool, hold: BlockingTask) -> None:
    """What is submitted to a paused pool waits, also when a worker was in a callback at that time."""
    pool, callback = make_pool(1, queue_capacity=1), Callback()
    leased: Any = pool._engine.workers
    leased._linger = PATIENCE  # so that it is still parked when we come to look
    pool.submit(hold).add_done_callback(callback)
    hold.release()
    assert callback.inside.wait(PATIENCE)
    pool.pause()
    waits = pool.submit(int)
    callback.leave.set()
    until(lambda: pool._engine.dispatcher.worker_set.parked)
    stats = check(pool.stats())
    assert (stats.queued, stats.running, waits.done()) == (1, 0, False)
    pool.resume()
    assert waits.result(PATIENCE) == 0
