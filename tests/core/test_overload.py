"""What happens when nothing more fits: reject, block, caller_runs, waiting with a bound; and FIFO order."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from prodpool import PoolClosedError, PoolFullError, Reason, Result, TaskExpiredError, current_task
from prodpool.testing import ManualClock
from tests.helpers.accounting import check
from tests.helpers.inside import WatchedWaiters
from tests.helpers.tasks import BlockingTask, TaskError, fill, occupy
from tests.helpers.waiting import PATIENCE, ThreadRunner
from tests.support import MakePool

# reject


def test_reject_leaves_no_trace(make_pool: MakePool, hold: BlockingTask) -> None:
    """A refused task is counted as refused and nowhere else, and its place goes to the next."""
    pool = make_pool(2, queue_capacity=3)
    occupy(pool, hold, 2)
    assert len(fill(pool, int)) == 3
    for _ in range(10):
        with pytest.raises(PoolFullError):
            pool.submit(int)
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.FULL], stats.offered) == (5, 11, 16)
    hold.release()
    assert pool.submit_wait(lambda: 7).result(PATIENCE) == 7


def test_retry_after_follows_the_mean_duration(make_pool: MakePool, hold: BlockingTask) -> None:
    """What a full pool says about a retry is the mean of the tasks that it has seen."""
    clock = ManualClock()
    pool = make_pool(1, queue_capacity=0, clock=clock)
    for _ in range(20):
        pool.submit_wait(clock.advance, 0.25).result(PATIENCE)
    pool.submit_wait(hold)
    hold.wait_started()
    with pytest.raises(PoolFullError) as caught:
        pool.submit(int)
    assert caught.value.retry_after == 0.25


# block


def test_block_waits_for_a_place(make_pool: MakePool, hold: BlockingTask) -> None:
    """With ``overload="block"`` a submit on a full pool returns once a place is free, and not before."""
    pool = make_pool(1, queue_capacity=1, overload="block")
    occupy(pool, hold, 1)
    pool.submit(int)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    blocked = crew.start(pool.submit, lambda: 7)
    line.wait(1)
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.offered) == (2, 1, 2)
    assert not blocked.done()
    hold.release()
    assert blocked.result(PATIENCE).result(PATIENCE) == 7
    crew.join()
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.dropped[Reason.FULL]) == (3, 3, 0)


def test_admission_wait_is_observed(make_pool: MakePool, hold: BlockingTask) -> None:
    """Only submitters that stood in line are in the admission wait, one observation each."""
    pool = make_pool(1, queue_capacity=1, overload="block")
    occupy(pool, hold, 1)
    pool.submit(int)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = [crew.start(pool.submit, int) for _ in range(3)]
    line.wait(3)
    hold.release()
    for each in waiting:
        assert each.result(PATIENCE).result(PATIENCE) == 0
    crew.join()
    assert pool._engine.reader.snapshot().admission_wait.count == 3


def test_blocked_submitters_are_served_in_order(make_pool: MakePool, hold: BlockingTask) -> None:
    """Those who stand in line are let in first come, first served, behind what is queued already."""
    pool = make_pool(1, queue_capacity=2, overload="block")
    occupy(pool, hold, 1)
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(2)]
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = []
    for number in range(2, 10):
        waiting.append(crew.start(pool.submit, ran.append, number))
        line.wait()
    hold.release()
    for future in [*futures, *(each.result(PATIENCE) for each in waiting)]:
        future.result(PATIENCE)
    crew.join()
    assert ran == list(range(10))


def test_blocking_on_an_event_loop_is_refused(make_pool: MakePool, hold: BlockingTask) -> None:
    """A submit that would block the event loop of its thread raises instead, and says what would do."""
    pool = make_pool(1, queue_capacity=1, overload="block")
    occupy(pool, hold, 1)

    async def main() -> None:
        assert pool.submit(int) is not None  # there is room: nothing blocks
        with pytest.raises(RuntimeError, match="submit_async"):
            pool.submit(int)
        with pytest.raises(RuntimeError, match="submit_async"):
            pool.options(wait=1.0).submit(int)

    asyncio.run(main())
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.FULL]) == (2, 1, 2)


# caller_runs


def test_caller_runs_in_the_caller(make_pool: MakePool, hold: BlockingTask) -> None:
    """With ``overload="caller_runs"`` a full pool has the submitter run its task, counted like any other."""
    pool = make_pool(1, queue_capacity=1, overload="caller_runs")
    occupy(pool, hold, 1)
    pool.submit(int)
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    variable.set(5)

    def task() -> tuple[int, int, str | None]:
        seen = variable.get()
        variable.set(6)  # in the task's own context, not in the caller's
        current = current_task()
        return threading.get_ident(), seen, current.name if current else None

    future = pool.options(task="here").submit(task)
    assert future.done()
    assert future.result(0) == (threading.get_ident(), 5, "here")
    assert variable.get() == 5
    assert current_task() is None
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK], stats.running, stats.queued) == (3, 1, 1, 1)
    assert stats.dropped[Reason.FULL] == 0


@pytest.mark.parametrize(
    ("error", "result"), [(TaskError(), Result.ERROR), (SystemExit(), Result.PANIC)], ids=["error", "panic"]
)
def test_caller_runs_keeps_what_is_raised(
    make_pool: MakePool, hold: BlockingTask, error: BaseException, result: Result
) -> None:
    """What a task raises in its caller's thread is in its future, not in the caller's lap."""

    def task() -> None:
        raise error

    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    occupy(pool, hold, 1)
    future = pool.submit(task)
    assert future.exception(0) is error
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[result]) == (2, 1)


def test_caller_runs_is_never_running_nor_queued(make_pool: MakePool, hold: BlockingTask) -> None:
    """While a caller runs its own task, the law and the bounds hold, and it is seen once it has ended."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    occupy(pool, hold, 1)
    seen = pool.submit(lambda: check(pool.stats())).result(0)
    assert (seen.submitted, seen.running, seen.queued) == (1, 1, 0)
    after = check(pool.stats())
    assert (after.submitted, after.completed[Result.OK]) == (2, 1)


async def test_caller_runs_not_on_an_event_loop(make_pool: MakePool, hold: BlockingTask) -> None:
    """A full pool does not run a task in an event loop's thread, which nothing else could use meanwhile."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    pool.submit(hold)
    await asyncio.to_thread(hold.wait_started)
    with pytest.raises(RuntimeError, match="would block the event loop of this thread"):
        pool.submit(int)
    assert check(pool.stats()).dropped[Reason.FULL] == 1


def test_retry_after_of_a_pool_that_has_just_filled_up(make_pool: MakePool, hold: BlockingTask) -> None:
    """While no task has finished one is taken to need a second: whoever heeds it does not spin."""
    pool = make_pool(2, queue_capacity=0)
    occupy(pool, hold, 2)
    with pytest.raises(PoolFullError) as caught:
        pool.submit(int)
    assert caught.value.retry_after is not None
    assert 0.5 <= caught.value.retry_after < PATIENCE


def test_caller_runs_nested(make_pool: MakePool, hold: BlockingTask) -> None:
    """A task that its caller runs may submit to the full pool again, and is itself again afterwards."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    occupy(pool, hold, 1)

    def name() -> str:
        current = current_task()
        assert current is not None
        return current.name

    def outer() -> tuple[str, str]:
        inner = pool.options(task="inner").submit(name).result(0)
        return inner, name()

    assert pool.options(task="outer").submit(outer).result(0) == ("inner", "outer")
    stats = check(pool.stats())
    assert (stats.submitted, stats.completed[Result.OK]) == (3, 2)


def test_wait_comes_before_the_policy(make_pool: MakePool, hold: BlockingTask) -> None:
    """``options(wait=...)`` waits and then refuses, also where the policy would have the caller run it."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs")
    occupy(pool, hold, 1)
    with pytest.raises(PoolFullError):
        pool.options(wait=0.01).submit(int)
    assert check(pool.stats()).dropped[Reason.FULL] == 1


# a queue that holds nothing


@pytest.mark.parametrize("policy", ["reject", "block", "caller_runs"])
def test_nothing_waits_with_capacity_0(make_pool: MakePool, hold: BlockingTask, policy: str) -> None:
    """With ``queue_capacity=0`` as many tasks are let in as there are workers, and none is ever queued."""
    pool = make_pool(3, queue_capacity=0, overload=policy)
    accepted = fill(pool, hold)
    assert len(accepted) == 3
    hold.wait_started(3)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (3, 0)
    hold.release()
    assert [future.result(PATIENCE) for future in accepted] == [None] * 3


def test_an_empty_pool_refuses_nobody(make_pool: MakePool) -> None:
    """A pool whose only task has ended takes the next one, though its worker may still be on the way back."""
    pool = make_pool(1, queue_capacity=0)

    def boom() -> None:
        raise TaskError

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            assert await loop.run_in_executor(pool, lambda: 7) == 7

    asyncio.run(main())
    for _ in range(100):
        assert isinstance(pool.submit(boom).exception(PATIENCE), TaskError)
        assert pool.submit(lambda: 7).result(PATIENCE) == 7
    assert check(pool.stats()).dropped[Reason.FULL] == 0


def test_a_callback_may_submit_the_next(make_pool: MakePool) -> None:
    """A done-callback may submit to the pool, which has the place of the finished task to give."""
    pool = make_pool(1, queue_capacity=0)
    hold, done = BlockingTask(), threading.Event()
    following: list[Future[int]] = []
    errors: list[BaseException] = []

    def submit_the_next(_: Future[Any]) -> None:
        try:
            following.append(pool.submit(lambda: 7))
            with pytest.raises(PoolFullError):
                pool.submit(int)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
        finally:
            done.set()

    pool.submit(hold).add_done_callback(submit_the_next)
    hold.release()
    assert done.wait(PATIENCE)
    assert not errors
    assert following[0].result(PATIENCE) == 7
    check(pool.stats())


def test_a_callback_may_wait_for_the_next(make_pool: MakePool) -> None:
    """A done-callback that submits and waits does not wait for the very worker that it runs in."""
    pool = make_pool(1, queue_capacity=1)
    hold = BlockingTask()
    results: list[int] = []
    done = threading.Event()

    def wait_for_the_next(_: Future[Any]) -> None:
        results.append(pool.submit(lambda: 7).result(PATIENCE / 2))
        done.set()

    pool.submit(hold).add_done_callback(wait_for_the_next)
    hold.release()
    assert done.wait(PATIENCE)
    assert results == [7]


def test_capacity_0_serves_who_waits(make_pool: MakePool, hold: BlockingTask) -> None:
    """With ``queue_capacity=0`` a freed worker takes the first who stands in line."""
    pool = make_pool(1, queue_capacity=0)
    occupy(pool, hold, 1)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = [crew.start(pool.submit_wait, int) for _ in range(5)]
    line.wait(5)
    assert check(pool.stats()).queued == 0
    hold.release()
    assert [each.result(PATIENCE).result(PATIENCE) for each in waiting] == [0] * 5
    crew.join()
    assert check(pool.stats()).completed[Result.OK] == 6


# submit_wait and options(wait=)


def test_submit_wait_is_bounded(make_pool: MakePool, hold: BlockingTask) -> None:
    """A bounded wait that is over raises PoolFullError and leaves the line."""
    pool = make_pool(1, queue_capacity=1)
    occupy(pool, hold, 1)
    pool.submit(int)
    for view in (pool.options(wait=0.02), pool.options(wait=0.02, deadline=5)):
        with pytest.raises(PoolFullError):
            view.submit_wait(int)
    assert pool._engine.dispatcher.waiters.length == 0
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.FULL], stats.dropped[Reason.EXPIRED]) == (2, 2, 0)


def test_wait_ends_with_the_deadline(make_pool: MakePool, hold: BlockingTask) -> None:
    """A task whose own deadline passes while it waits for a slot counts as one that came and expired."""
    pool = make_pool(1, queue_capacity=0)
    occupy(pool, hold, 1)
    for view in (pool.options(deadline=0.02), pool.options(wait=5, deadline=0.02)):
        with pytest.raises(TaskExpiredError):
            view.submit_wait(int)
    assert pool._engine.dispatcher.waiters.length == 0
    stats = check(pool.stats())
    assert (stats.submitted, stats.dropped[Reason.FULL], stats.dropped[Reason.EXPIRED]) == (3, 0, 2)


def test_submit_wait_on_an_event_loop(make_pool: MakePool) -> None:
    """``submit_wait`` on an event loop's thread raises also while there is room: it would fail under load."""
    pool = make_pool(1)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="submit_async"):
            pool.submit_wait(int)

    asyncio.run(main())
    assert check(pool.stats()).offered == 0


def test_waiters_are_refused_at_close(make_pool: MakePool, hold: BlockingTask) -> None:
    """Who stands in line when the pool closes gets PoolClosedError at once, while tasks still run."""
    pool = make_pool(1, queue_capacity=1)
    occupy(pool, hold, 1)
    queued = pool.submit(int)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = [crew.start(pool.submit_wait, int) for _ in range(4)]
    line.wait(4)
    pool.shutdown(wait=False)
    for each in waiting:
        assert isinstance(each.exception(PATIENCE), PoolClosedError)
    assert not queued.done()
    stats = check(pool.stats())
    assert (stats.state, stats.submitted, stats.dropped[Reason.CLOSED]) == ("draining", 2, 4)
    hold.release()
    crew.join()
    assert pool.stop(PATIENCE).drained


def test_cancelling_frees_the_place_for_who_waits(make_pool: MakePool, hold: BlockingTask) -> None:
    """A cancelled queued task gives its place to the first in line."""
    pool = make_pool(1, queue_capacity=1)
    occupy(pool, hold, 1)
    queued = pool.submit(int)
    crew, line = ThreadRunner(), WatchedWaiters(pool)
    waiting = crew.start(pool.submit_wait, lambda: 7)
    line.wait(1)
    assert queued.cancel()
    let_in = waiting.result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.CANCELLED]) == (3, 1, 1)
    hold.release()
    assert let_in.result(PATIENCE) == 7
    crew.join()


# order and cancellation


def test_fifo(make_pool: MakePool, hold: BlockingTask) -> None:
    """Queued tasks start in the order in which they were submitted, cancelled ones left out."""
    pool = make_pool(1, queue_capacity=100)
    occupy(pool, hold, 1)
    ran: list[int] = []
    futures = [pool.submit(ran.append, number) for number in range(100)]
    for future in futures[::3]:
        assert future.cancel()
    hold.release()
    for future in futures:
        if not future.cancelled():
            future.result(PATIENCE)
    assert ran == [number for number in range(100) if number % 3]


def test_cancelled_task_gives_its_place_back(make_pool: MakePool, hold: BlockingTask) -> None:
    """A cancelled queued task gives its slot back at once, never runs, and is counted once."""
    pool = make_pool(1, queue_capacity=5)
    occupy(pool, hold, 1)
    ran: list[int] = []
    for _ in range(50):
        futures = [pool.submit(ran.append, 1) for _ in range(5)]
        for future in futures:
            assert future.cancel()
            assert future.cancel()
            assert future.cancelled()
            assert future.done()
    stats = check(pool.stats())
    assert (stats.submitted, stats.queued, stats.dropped[Reason.CANCELLED]) == (251, 0, 250)
    hold.release()
    assert pool.stop(PATIENCE).drained
    assert not ran


def test_running_and_finished_tasks_cannot_be_cancelled(make_pool: MakePool, hold: BlockingTask) -> None:
    """Cancelling a running or a finished task is refused and counted nowhere."""
    pool = make_pool(1)
    (running,) = occupy(pool, hold, 1)
    assert running.running()
    assert not running.cancel()
    hold.release()
    assert running.result(PATIENCE) is None
    assert not running.cancel()
    assert check(pool.stats()).dropped[Reason.CANCELLED] == 0


def test_closed_pool_refuses_every_way_in(make_pool: MakePool) -> None:
    """Once closed, each way of submitting raises PoolClosedError and counts one refusal."""
    pool = make_pool(1)
    pool.stop(PATIENCE)
    view = pool.options(wait=1.0, task="late")

    async def main() -> None:
        await pool.submit_async(int)

    for way in (
        lambda: pool.submit(int),
        lambda: pool.submit_wait(int),
        lambda: view.submit(int),
        lambda: view.submit_wait(int),
        lambda: list(pool.map(int, "1")),
        lambda: asyncio.run(main()),
    ):
        with pytest.raises(PoolClosedError) as caught:
            way()
        assert (caught.value.pool, caught.value.reason) == ("test", Reason.CLOSED)
    assert check(pool.stats()).dropped[Reason.CLOSED] == 6


def test_what_cannot_be_called_is_refused(make_pool: MakePool) -> None:
    """Submitting something that cannot be called fails at submit and leaves no trace."""
    pool = make_pool(1)
    with pytest.raises(TypeError, match="fn=3"):
        pool.submit(3)  # type: ignore[arg-type]
    assert check(pool.stats()).offered == 0
