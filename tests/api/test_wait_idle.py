"""`wait_idle` and `capacity`: when a pool has nothing to do, and how much it can hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from prodpool import InstrumentedPool, PoolFullError, Reason, WorkerLostError
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask, TaskError, fill
from tests.helpers.waiting import PATIENCE, ThreadRunner, until
from tests.support import MakePool


@pytest.fixture
def threads(gate: BlockingTask) -> Iterator[ThreadRunner]:
    """Run functions in threads, which are joined once the gate is open."""
    runner = ThreadRunner()
    yield runner
    gate.release()
    runner.join()


def waiting(pool: InstrumentedPool, count: int = 1) -> None:
    """Return once so many wait for the pool to be idle."""
    until(lambda: pool._engine.dispatcher.idle_waiters.length == count)


def test_an_idle_pool(make_pool: MakePool) -> None:
    """A pool that was not used, or has nothing left to do, is idle at once."""
    pool = make_pool(1)
    assert pool.wait_idle()
    assert pool.wait_idle(0)
    pool.submit(int).result(PATIENCE)
    assert pool.wait_idle(PATIENCE)
    assert pool.wait_idle(0)


def test_waits_for_queued_and_running(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """Every thread that waits is told when the last task has ended, whose futures are done by then."""
    pool = make_pool(2)
    futures = fill(pool, gate)
    assert not pool.wait_idle(0)
    assert not pool.wait_idle(0.01)
    idle = [threads.start(pool.wait_idle, PATIENCE), threads.start(pool.wait_idle)]
    waiting(pool, 2)
    assert not any(each.done() for each in idle)
    gate.release()
    assert [each.result(PATIENCE) for each in idle] == [True, True]
    assert all(future.done() for future in futures)
    waiting(pool, 0)
    assert pool._engine.dispatcher.idle_wanted is False
    assert pool.submit(abs, -7).result(PATIENCE) == 7


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda _, gate: gate.release(), id="it-ends"),
        pytest.param(lambda pool, gate: (pool.pause(), gate.release()), id="paused"),
        pytest.param(lambda pool, gate: (pool.resize(1), gate.release()), id="made-smaller"),
        pytest.param(lambda pool, gate: (pool.shutdown(wait=False), gate.release()), id="stopped"),
    ],
)
def test_however_it_becomes_idle(
    make_pool: MakePool,
    gate: BlockingTask,
    threads: ThreadRunner,
    end: Callable[[InstrumentedPool, BlockingTask], object],
) -> None:
    """What happens to the pool meanwhile does not keep the waiting thread from being told."""
    pool = make_pool(2)
    for _ in range(2):
        pool.submit(gate)
    gate.wait_started(2)
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    end(pool, gate)
    assert idle.result(PATIENCE)
    pool.resume()


def test_a_cancelled_task_is_none(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """The last queued task of a paused pool may be cancelled: nothing is left then."""
    pool = make_pool(1)
    pool.pause()
    future = pool.submit(int)
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    assert not pool.wait_idle(0.01)
    assert future.cancel()
    assert idle.result(PATIENCE)
    assert check(pool.stats()).dropped[Reason.CANCELLED] == 1


def test_idle_for_a_moment(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """It is enough that the pool was idle at one moment, though it has work again when the thread wakes."""
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    again = BlockingTask()
    gate.release()
    until(lambda: pool._engine.dispatcher.idle_waiters.length == 0)
    pool.submit(again)
    again.wait_started()
    assert idle.result(PATIENCE)
    again.release()


def test_callbacks_are_part_of_it(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """A task counts until its done-callbacks are made."""
    pool, called = make_pool(1), threading.Event()
    future = pool.submit(gate)
    gate.wait_started()
    go_on = threading.Event()

    def call_back(_: object) -> None:
        called.set()
        assert go_on.wait(PATIENCE)

    future.add_done_callback(call_back)
    gate.release()
    assert called.wait(PATIENCE)
    assert not pool.wait_idle(0.01)
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    go_on.set()
    assert idle.result(PATIENCE)


def test_in_a_callback_of_a_task_that_never_ran(make_pool: MakePool) -> None:
    """It does not wait there for itself: the task is over, whose callback this is."""
    pool = make_pool(1)
    pool.pause()
    future = pool.submit(len, "")
    idle: list[bool] = []
    future.add_done_callback(lambda _: idle.append(pool.wait_idle(0)))
    assert future.cancel()
    assert idle == [True]


def test_on_top_of_a_frame_of_the_pool(make_pool: MakePool, gate: BlockingTask) -> None:
    """A signal handler or destructor that has interrupted the pool would keep it from going on."""
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()
    with (
        pool._engine.dispatcher.lock,
        pytest.raises(RuntimeError, match="in a signal handler or destructor that has interrupted the pool"),
    ):
        pool.wait_idle(PATIENCE)


def test_an_abandoned_task(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """A task that a stop has given up counts until it ends after all."""
    pool = make_pool(1)
    future = pool.submit(gate)
    gate.wait_started()
    assert pool.stop(0).abandoned
    assert isinstance(future.exception(0), WorkerLostError)
    assert not pool.wait_idle(0.01)
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    gate.release()
    assert idle.result(PATIENCE)


def test_a_task_that_fails(make_pool: MakePool, threads: ThreadRunner) -> None:
    """A task that raises has ended as well."""
    pool, began, go_on = make_pool(1), threading.Event(), threading.Event()

    def fail() -> None:
        began.set()
        assert go_on.wait(PATIENCE)
        raise TaskError

    future = pool.submit(fail)
    assert began.wait(PATIENCE)
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool)
    go_on.set()
    assert idle.result(PATIENCE)
    assert isinstance(future.exception(0), TaskError)


def test_inside_a_task(make_pool: MakePool) -> None:
    """A task, or a done-callback, that waits for its own pool gets an error that says what to do."""
    pool = make_pool(1)
    error = pool.submit(pool.wait_idle).exception(PATIENCE)
    assert isinstance(error, RuntimeError)
    assert "wait_idle() inside a task of pool 'test'" in str(error)
    assert "wait for the futures that it needs" in str(error)
    other = make_pool(1)
    assert other.submit(pool.wait_idle, PATIENCE).result(PATIENCE)


@pytest.mark.parametrize(
    ("wrong", "kind"), [(-1.0, ValueError), ("1", TypeError), (float("nan"), ValueError), (True, TypeError)]
)
def test_bad_timeout(make_pool: MakePool, wrong: object, kind: type[Exception]) -> None:
    """A wrong timeout is named, with its value and what would do."""
    with pytest.raises(kind, match=rf"timeout={wrong!r} must be .* seconds"):
        make_pool(1).wait_idle(wrong)  # type: ignore[arg-type]


async def test_on_a_loop(make_pool: MakePool, gate: BlockingTask) -> None:
    """`wait_idle` is refused where it would block a loop; `wait_idle_async` waits while the loop goes on."""
    pool = make_pool(1)
    assert pool.wait_idle(0)
    with pytest.raises(RuntimeError, match=r"would block the event loop .*await pool.wait_idle_async\(\)"):
        pool.wait_idle()
    assert await pool.wait_idle_async()
    future = await pool.submit_async(gate, "done")
    await asyncio.to_thread(gate.wait_started)
    assert not await pool.wait_idle_async(0)
    assert not await pool.wait_idle_async(0.01)
    idle = [asyncio.create_task(pool.wait_idle_async(seconds)) for seconds in (None, PATIENCE)]
    cancelled = asyncio.create_task(pool.wait_idle_async())
    await asyncio.sleep(0)
    assert pool._engine.dispatcher.idle_waiters.length == 3
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert pool._engine.dispatcher.idle_waiters.length == 2
    gate.release()
    assert await asyncio.gather(*idle) == [True, True]
    assert await future == "done"


def test_a_waiter_of_a_closed_loop(make_pool: MakePool, gate: BlockingTask, threads: ThreadRunner) -> None:
    """A coroutine whose loop was closed under it keeps nobody else from being told."""
    pool = make_pool(1)
    pool.submit(gate)
    gate.wait_started()
    loop = asyncio.new_event_loop()
    orphan = loop.create_task(pool.wait_idle_async())
    loop.run_until_complete(asyncio.sleep(0))
    idle = threads.start(pool.wait_idle, PATIENCE)
    waiting(pool, 2)
    loop.close()
    gate.release()
    assert idle.result(PATIENCE)
    orphan._log_destroy_pending = False  # type: ignore[attr-defined]
    orphan.get_coro().close()


def test_capacity(make_pool: MakePool, gate: BlockingTask) -> None:
    """It is how many tasks fit: as many are taken, and not one more; `resize` changes it."""
    pool = make_pool(2, queue_capacity=3)
    assert pool.capacity == 5
    view = pool.options(wait=0)
    for _ in range(pool.capacity):
        pool.submit(gate)
    with pytest.raises(PoolFullError):
        view.submit(gate)
    pool.resize(1)
    assert pool.capacity == 4
    assert make_pool(3, queue_capacity=0).capacity == 3
