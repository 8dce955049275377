"""`RecordingPool`: what it notes, holds, refuses and fails, without a thread."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor
from functools import partial
from typing import Any

import pytest

from prodpool import (
    BreakerOpenError,
    PoolBrokenError,
    PoolClosedError,
    PoolForkedError,
    PoolFullError,
    PoolFuture,
    PoolLike,
    Reason,
    RejectedError,
    TaskExpiredError,
    TaskTimeoutError,
    WorkerLostError,
    current_task,
)
from prodpool.integrations.refusals import refusal_of
from prodpool.testing import ManualClock, RecordingPool, Submission, TaskOptions
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import ThreadRunner


def resize(path: str, *, width: int = 100) -> str:
    """Stand for a service's task."""
    return f"{path} at {width}"


def enqueue(pool: PoolLike, path: str) -> PoolFuture[str]:
    """Stand for a service's code: it takes whatever is like a pool."""
    return pool.options(task="resize", deadline=5.0).submit(resize, path, width=50)


def test_it_runs_and_notes_what_is_submitted() -> None:
    """Each call is made at once, without a thread, and noted with its options and its future."""
    threads = threading.active_count()
    pool = RecordingPool("images")
    future = enqueue(pool, "cat.png")
    assert future.result(0) == "cat.png at 50"
    assert pool.submissions == [
        Submission(
            method="submit",
            fn=resize,
            args=("cat.png",),
            kwargs={"width": 50},
            options=TaskOptions(task="resize", deadline=5.0),
            future=future,
            refusal=None,
        )
    ]
    assert pool.submissions[0].task == "resize"
    pool.submissions.clear()  # a list of the caller's own
    assert list(pool.map(int, "12")) == [1, 2]
    pool.options(wait=1.0).submit_wait(int)
    asyncio.run(_run(pool))
    assert [(each.method, each.task, each.args) for each in pool.submissions] == [
        ("submit", "resize", ("cat.png",)),
        ("map", "int", ("1",)),
        ("map", "int", ("2",)),
        ("submit_wait", "int", ()),
        ("submit_async", "int", ("3",)),
    ]
    assert pool.submissions[3].options == TaskOptions(wait=1.0)
    assert threading.active_count() == threads
    assert isinstance(pool, Executor)
    assert repr(pool) == "<RecordingPool 'images' open: 5 submitted, 0 held>"


async def _run(pool: RecordingPool) -> None:
    assert await pool.run(int, "3") == 3


def test_wrong_arguments_are_refused() -> None:
    """Constructor and plans name the argument, its value and what would do."""
    pool, anything = RecordingPool(), lambda _: None
    cases: list[tuple[Any, str]] = [
        (lambda: RecordingPool("a b"), "name='a b' cannot be a pool's name"),
        (lambda: RecordingPool(hold=1), "hold=1 must be True or False"),  # type: ignore[arg-type]
        (lambda: RecordingPool(clock=anything), "has no monotonic"),  # type: ignore[arg-type]
        (lambda: pool.refuse(WorkerLostError), "must be one of the classes BreakerOpenError, Pool"),
        (lambda: pool.refuse("full"), "error='full' must be one of"),  # type: ignore[arg-type]
        (lambda: pool.refuse(PoolFullError, times=0), "times=0 must be 1 or more"),
        (lambda: pool.refuse(PoolFullError, retry_after=-1), "retry_after=-1"),
        (lambda: pool.refuse(TaskError(), retry_after=1), r"TaskError\(\) is raised as it is"),
        (lambda: pool.fail(PoolFullError), "must be one of the classes TaskExpiredError, TaskTimeoutError"),
        (lambda: pool.stop(-1), "deadline=-1"),
    ]
    for call, text in cases:
        with pytest.raises((TypeError, ValueError), match=text):
            call()
    assert pool.submit(int).result(0) == 0


def test_refusals_are_those_of_a_pool() -> None:
    """The next calls are refused as planned, in order, with the errors that a pool of this name raises."""
    pool = RecordingPool("mail")
    pool.refuse(PoolFullError, times=2, retry_after=1.5)
    pool.refuse(BreakerOpenError, retry_after=30.0)
    for kind in (PoolClosedError, PoolBrokenError, PoolForkedError):
        pool.refuse(kind)
    pool.refuse(TaskExpiredError)
    own = BreakerOpenError(pool="mail", retry_after=7.0)
    pool.refuse(own)
    raised: list[BaseException] = []
    calls: list[Callable[[], object]] = [lambda: pool.submit(int)] * 6
    calls += [lambda: pool.options(deadline=2.0).submit_wait(int)] * 2
    for call in calls:
        with pytest.raises(RuntimeError) as error:
            call()
        raised.append(error.value)
    assert [type(error).__name__.removesuffix("Error") for error in raised] == (
        ["PoolFull"] * 2
        + ["BreakerOpen", "PoolClosed", "PoolBroken", "PoolForked", "TaskExpired"]
        + ["BreakerOpen"]
    )
    assert {error.pool for error in raised if isinstance(error, RejectedError)} == {"mail"}
    assert raised[-1] is own
    full, breaker, expired = raised[0], raised[2], raised[6]
    assert isinstance(full, PoolFullError)
    assert (full.retry_after, full.reason, full.queued, full.queue_capacity) == (1.5, Reason.FULL, 2, 2)
    assert isinstance(breaker, BreakerOpenError)
    assert breaker.retry_after == 30.0
    assert isinstance(expired, TaskExpiredError)
    assert (expired.deadline, expired.task) == (2.0, "int")
    answers = [refusal_of(error) for error in raised]
    assert [answer.status for answer in answers if answer] == [429, 429, 503, 503, 503, 503, 503]
    assert [(each.future, each.refusal) for each in pool.submissions] == [(None, error) for error in raised]
    assert pool.submit(int).result(0) == 0


def test_refusing_goes_on_until_told_otherwise() -> None:
    """With ``times=None`` every call is refused, by map and coroutines as well, until `accept`."""
    pool = RecordingPool()
    pool.refuse(PoolFullError, times=None)
    for call in (
        lambda: pool.submit(int),
        lambda: pool.submit_wait(int),
        lambda: pool.map(int, "1"),
        lambda: asyncio.run(_run(pool)),
        lambda: pool.options(task="x").submit(int),
    ):
        with pytest.raises(PoolFullError):
            call()
    pool.accept()
    assert pool.submit(int).result(0) == 0
    assert [each.refusal is None for each in pool.submissions] == [False] * 5 + [True]


def test_failures_are_those_of_a_pool() -> None:
    """Accepted tasks fail as planned, without a call of their functions."""
    pool, calls = RecordingPool("mail"), list[int]()
    pool.fail(WorkerLostError)
    pool.fail(TaskTimeoutError)
    pool.fail(TaskError("no"), times=None)
    view = pool.options(task="send", timeout=3.0)
    errors = [view.submit(calls.append, 1).exception(0) for _ in range(4)]
    lost, limit, *own = errors
    assert isinstance(lost, WorkerLostError)
    assert (lost.pool, lost.task, lost.began) == ("mail", "send", True)
    assert isinstance(limit, TaskTimeoutError)
    assert (limit.pool, limit.task, limit.timeout) == ("mail", "send", 3.0)
    assert [type(error) for error in own] == [TaskError] * 2
    assert calls == []
    pool.accept()
    view.submit(calls.append, 1)
    assert calls == [1]


def test_held_tasks_run_when_told() -> None:
    """With ``hold`` tasks run one by one, or all with those that they submit, in the thread that says so."""
    pool, order = RecordingPool(hold=True), list[str]()

    def outer() -> None:
        order.append("outer")
        pool.submit(order.append, "inner")

    futures = [pool.submit(order.append, "first"), pool.submit(outer), pool.submit(order.append, "last")]
    assert ([future.done() for future in futures], order, pool.held) == ([False] * 3, [], 3)
    assert pool.run_next() is futures[0]
    assert (order, futures[0].done(), pool.held) == (["first"], True, 2)
    assert pool.run_all() == 3
    assert order == ["first", "outer", "last", "inner"]
    assert (pool.run_next(), pool.run_all(), pool.held) == (None, 0, 0)


def test_a_held_task_is_cancelled_or_expires() -> None:
    """A held task can be cancelled, and one whose deadline passes by the clock does not run."""
    clock, calls = ManualClock(), list[int]()
    pool = RecordingPool("mail", hold=True, clock=clock)
    cancelled, kept = pool.submit(calls.append, 1), pool.submit(calls.append, 2)
    late, in_time = (pool.options(deadline=seconds).submit(calls.append, 3) for seconds in (5.0, 6.0))
    assert cancelled.cancel()
    assert cancelled.cancelled()
    assert cancelled.cancel()
    assert pool.held == 3
    clock.advance(5.0)
    assert pool.run_next() is kept
    assert pool.run_all() == 2
    assert calls == [2, 3]
    assert in_time.exception(0) is None
    with pytest.raises(TaskExpiredError) as expired:
        late.result(0)
    assert (expired.value.pool, expired.value.deadline, expired.value.dwell) == ("mail", 5.0, 5.0)
    with pytest.raises(CancelledError):
        cancelled.result(0)


def test_who_waits_for_a_held_task_waits() -> None:
    """A wait for a held task keeps its limit, or lasts until another thread runs the task."""
    pool, others = RecordingPool(hold=True), ThreadRunner()
    future = pool.submit(int, "1")
    with pytest.raises(TimeoutError):
        future.result(0.01)
    waiting = others.start(partial(future.result, 20))
    pool.run_all()
    assert waiting.result(20) == 1
    others.join()


def test_a_task_runs_the_held_one_that_it_waits_for() -> None:
    """A task that waits for a held task of its pool runs that inside itself, as a pool's worker does."""
    pool = RecordingPool(hold=True)
    waits = pool.submit(lambda: (awaited.done(), awaited.result()))
    awaited = pool.submit(int, "2")
    assert pool.run_next() is waits
    assert waits.result(0) == (False, 2)
    assert (pool.held, pool.run_next()) == (0, None)


def test_tasks_of_two_pools_are_inside_one_another() -> None:
    """What another pool runs inside a task of this one is inside that: it may not stop this pool."""
    pool, other = RecordingPool("outer"), RecordingPool("inner")

    def inner() -> list[object]:
        following = pool.submit(int, "3")
        return [current_task() is not None, following.done(), following.result()]

    def outer() -> list[object]:
        found = other.submit(inner).result(0)
        task = current_task()
        return [*found, task is not None and task.pool]

    assert pool.submit(outer).result(0) == [True, False, 3, "outer"]
    stops = pool.submit(lambda: other.submit(pool.stop).exception(0)).result(0)
    assert isinstance(stops, RuntimeError)
    assert pool.stop().drained


def test_a_waiting_coroutine_goes_on_when_its_task_is_run() -> None:
    """On a loop a held task is awaited while the test runs it; a cancelled coroutine cancels it."""
    pool = RecordingPool(hold=True)

    async def main() -> None:
        async with asyncio.timeout(20):
            waiting = [asyncio.create_task(pool.run(int, text)) for text in "12"]
            await asyncio.sleep(0)
            assert pool.held == 2
            waiting[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[1]
            assert pool.held == 1
            pool.run_all()
            assert await waiting[0] == 1

    asyncio.run(main())


def test_a_running_task_is_told_to_end() -> None:
    """Its future's cancel, and its run-time limit by the clock, set ``current_task().cancelled``."""
    clock = ManualClock()
    pool = RecordingPool(hold=True, clock=clock)

    def work() -> list[bool]:
        task = current_task()
        assert task is not None
        told = [task.cancelled.is_set()]
        clock.advance(3.0)
        told.append(task.cancelled.is_set())
        return told

    future = pool.options(timeout=3.0).submit(work)
    assert pool.run_next() is future
    assert future.result(0) == [False, True]
    told: list[bool] = []

    def cancels_itself() -> None:
        task = current_task()
        assert task is not None
        assert not own.cancel()
        told.append(task.cancelled.is_set())

    own = pool.submit(cancels_itself)
    pool.run_all()
    assert told == [True]


def test_a_chain_of_tasks_is_no_recursion() -> None:
    """A chain may be longer than the stack is deep; a submit near the stack's end raises and is not noted."""
    pool, order = RecordingPool(), list[int]()

    def step(left: int) -> None:
        order.append(left)
        if left:
            pool.submit(step, left - 1)

    pool.submit(step, 2 * sys.getrecursionlimit())
    assert order == list(range(2 * sys.getrecursionlimit(), -1, -1))

    def at(depth: int) -> None:
        if depth:
            at(depth - 1)
        else:
            pool.submit(int)

    refused = 0
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
        try:
            at(depth)
        except RecursionError:
            refused += 1
    assert refused
    futures = [each.future for each in pool.submissions]
    assert all(future is not None and future.done() for future in futures)


def test_each_thread_runs_what_it_submits() -> None:
    """Threads do not wait for one another, and each call is noted."""
    pool, task, others = RecordingPool(), BlockingTask(), ThreadRunner()
    busy = others.start(pool.submit, task)
    task.wait_started()
    assert pool.submit(threading.current_thread).result(0) is threading.current_thread()
    report = pool.stop()
    assert (report.drained, report.abandoned) == (False, ("BlockingTask",))
    task.release()
    assert busy.result(20).done()
    many = RecordingPool()
    loads = [others.start(lambda: [many.submit(int, "1").result(0) for _ in range(200)]) for _ in range(4)]
    assert [sum(load.result(20)) for load in loads] == [200] * 4
    others.join()
    assert len(many.submissions) == 800


def test_interrupts_reach_the_thread() -> None:
    """Ctrl-C in a task is raised by submit, or by run_all, which leaves the rest held."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    pool = RecordingPool()
    with pytest.raises(KeyboardInterrupt):
        pool.submit(interrupted)
    assert pool.submissions[0].future is not None
    assert isinstance(pool.submissions[0].future.exception(0), KeyboardInterrupt)
    held = RecordingPool(hold=True)
    held.submit(interrupted)
    held.submit(int)
    with pytest.raises(KeyboardInterrupt):
        held.run_all()
    assert held.held == 1
    assert current_task() is None


def test_a_callback_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged to ``prodpool`` with its error, and the task's result stands."""
    pool = RecordingPool("mail", hold=True)

    def raises(_: object) -> None:
        raise TaskError("in a callback")

    future = pool.submit(int)
    future.add_done_callback(raises)
    with caplog.at_level(logging.ERROR, "prodpool"):
        pool.run_all()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [TaskError]
    assert future.result(0) == 0


@pytest.mark.parametrize("how", ["stop", "stop at once", "shutdown", "cancel", "with", "async with"])
def test_a_stop_runs_or_cancels_what_is_held(how: str) -> None:
    """What is held is run, or cancelled where that was asked for; the report says which."""
    pool = RecordingPool(hold=True)
    futures = [pool.submit(int), pool.submit(int)]

    async def leave() -> None:
        async with pool:
            pass

    if how == "with":
        with pool:
            pass
    elif how == "async with":
        asyncio.run(leave())
    else:
        calls: dict[str, Callable[[], object]] = {
            "stop": pool.stop,
            "stop at once": partial(pool.stop, 0),
            "shutdown": pool.shutdown,
            "cancel": partial(pool.shutdown, cancel_futures=True),
        }
        calls[how]()
    dropped = how in {"stop at once", "cancel"}
    report = pool.stop(math.inf)
    assert (report.drained, report.completed, report.dropped) == ((False, 0, 2) if dropped else (True, 2, 0))
    assert [future.cancelled() for future in futures] == [dropped] * 2
    with pytest.raises(PoolClosedError):
        pool.submit(int)
    assert pool.submissions[-1].refusal is not None
    assert repr(pool) == "<RecordingPool 'recording' stopped: 3 submitted, 0 held>"
