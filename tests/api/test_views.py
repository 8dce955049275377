"""`options(...)`: a view of a pool is a light executor with options of its own."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import Executor

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolFullError, PoolView, TaskExpiredError, current_task
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool


def know() -> tuple[str, float | None]:
    task = current_task()
    assert task is not None
    return task.name, task.remaining


def test_a_view_is_an_executor(make_pool: MakePool) -> None:
    """A view is an Executor that submits to its pool and is counted there."""
    pool = make_pool(1)
    view = pool.options(task="named")
    assert isinstance(view, Executor)
    assert isinstance(view, PoolView)
    assert view.submit(know).result(PATIENCE) == ("named", None)
    assert view.submit_wait(know).result(PATIENCE) == ("named", None)
    assert list(view.map(lambda _: know()[0], range(3))) == ["named"] * 3
    assert pool.stats().submitted == 5


def test_options_of_options(make_pool: MakePool) -> None:
    """Options given later are added to the earlier ones and win over them; the first view is untouched."""
    pool = make_pool(1, clock=ManualClock())
    first = pool.options(task="first", deadline=5.0)
    second = first.options(deadline=7.0)
    third = second.options(task="third")
    assert [view.submit(know).result(PATIENCE) for view in (first, second, third, second)] == [
        ("first", 5.0),
        ("first", 7.0),
        ("third", 7.0),
        ("first", 7.0),
    ]


def test_no_options_are_the_pool_itself(make_pool: MakePool) -> None:
    """A view without options submits as the pool does."""
    assert make_pool(1).options().submit(know).result(PATIENCE)[1] is None


def test_the_pool_is_untouched(make_pool: MakePool) -> None:
    """A view's options do not leak into its pool."""
    pool = make_pool(1)
    pool.options(task="named", deadline=PATIENCE)
    name, remaining = pool.submit(know).result(PATIENCE)
    assert (name, remaining) == ("know", None)


def test_deadline(make_pool: MakePool, gate: BlockingTask) -> None:
    """A task whose deadline passes while it waits is dropped unrun; the error says after how long."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock)
    pool.submit(gate)
    gate.wait_started()
    future = pool.options(task="late", deadline=2.0).submit(know)
    clock.advance(2.5)
    gate.release()
    error = future.exception(PATIENCE)
    assert isinstance(error, TaskExpiredError)
    assert (error.task, error.deadline, error.dwell) == ("late", 2.0, 2.5)


def test_wait(make_pool: MakePool, gate: BlockingTask) -> None:
    """wait= has submit wait for a slot that long, whatever the policy, and 0 not at all."""
    pool = make_pool(1, queue_capacity=0, overload="block")
    pool.submit(gate)
    gate.wait_started()
    for wait in (0, 0.01):
        with pytest.raises(PoolFullError):
            pool.options(wait=wait).submit(know)
    gate.release()
    assert pool.options(wait=PATIENCE, task="let in").submit(know).result(PATIENCE) == ("let in", None)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cancel_futures", [True, False])
def test_a_view_does_not_shut_its_pool_down(make_pool: MakePool, wait: bool, cancel_futures: bool) -> None:
    """shutdown() of a view is refused, with a word on what to do, and the pool stays open."""
    pool = make_pool(1)
    view = pool.options(task="named")
    with pytest.raises(RuntimeError, match="a view does not own its pool; stop the pool itself"):
        view.shutdown(wait=wait, cancel_futures=cancel_futures)
    assert view.submit(know).result(PATIENCE) == ("named", None)


def test_with_a_view(make_pool: MakePool) -> None:
    """Using a view as if it were a pool in a with statement is refused at its end."""
    pool = make_pool(1)
    with pytest.raises(RuntimeError, match="does not own its pool"), pool.options(task="named") as view:
        assert view.submit(know).result(PATIENCE) == ("named", None)
    assert pool.stats().state == "open"


def test_a_view_keeps_its_pool() -> None:
    """A pool that only a view refers to is not taken for one that nobody wants."""
    view = prodpool.threads(name="viewed", max_workers=1, registry=CollectorRegistry()).options(task="kept")
    gc.collect()
    assert view.submit(know).result(PATIENCE) == ("kept", None)


def test_repr(make_pool: MakePool) -> None:
    """The repr of a view shows its pool and its options."""
    text = repr(make_pool(1, name="mail").options(task="deliver", deadline=5.0))
    for word in ("PoolView", "'mail'", "'deliver'", "5.0"):
        assert word in text


async def test_in_coroutines(make_pool: MakePool) -> None:
    """A view goes into run_in_executor, and its options go with it."""
    loop = asyncio.get_running_loop()
    view = make_pool(1).options(task="from a coroutine")
    assert (await loop.run_in_executor(view, know))[0] == "from a coroutine"
    assert (await (await view.submit_async(know)))[0] == "from a coroutine"


def test_names_in_logs(make_pool: MakePool, logs: Logs) -> None:
    """Tasks mapped over a view are logged under its name."""
    pool = make_pool(1)
    with pytest.raises(ZeroDivisionError):
        list(pool.options(task="divide").map(divmod, [1], [0]))
    assert logs.wait_for("task.error")["task"] == "divide"


def test_a_subclass_has_views_too(registry: CollectorRegistry) -> None:
    """A pool of a subclass gives views that submit to it."""
    from concurrent.futures import ThreadPoolExecutor

    class Mine(InstrumentedPool):
        """A user's own pool."""

    with Mine(ThreadPoolExecutor(1), name="mine", registry=registry) as pool:
        assert "Mine" in repr(pool)
        assert pool.options(task="named").submit(know).result(PATIENCE) == ("named", None)
