"""A worker process that is lost is replaced at once, and only what it had begun is lost or run again."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import loky
import pytest
from prometheus_client import CollectorRegistry

from prodpool import PoolBrokenError, Reason, Result, TaskExpiredError, UnpicklableError, WorkerLostError
from prodpool.workers.processes import restart_backoff
from tests.backends import work
from tests.backends.conftest import BACKENDS, PATIENCE, Held, MakePool, meanwhile, over_processes
from tests.helpers.accounting import check, scrape
from tests.helpers.waiting import until
from tests.support import runs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.parametrize("kind", over_processes, indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.mark.parametrize("factory", [False, True])
def test_a_killed_worker_is_replaced(
    make_pool: MakePool, held: Held, registry: CollectorRegistry, *, factory: bool
) -> None:
    """After an idle worker was killed another takes its place, with no factory and no task; it is counted."""
    pool = make_pool(2, factory=factory)
    idle = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    held.let_go()
    killed, other = (future.result(PATIENCE) for future in idle)
    os.kill(killed, signal.SIGKILL)
    line = make_pool.logs.wait_for("pool.backend_rebuilt")
    assert (line["log_level"], line["rebuilds"]) == ("warning", 1)
    assert (
        line["died"] == f"process {killed} was killed by SIGKILL, which the system sends when memory runs out"
    )
    until(lambda: pool._engine.dispatcher.worker_set.parked.length == 2, PATIENCE)
    pids = {pool.submit(work.pid).result(PATIENCE) for _ in range(10)}
    assert killed not in pids
    assert runs(other)
    samples = scrape(registry)
    assert samples[f'workerpool_backend_rebuilds_total{{pool="{pool.name}"}}'] == 1.0
    assert pool.stats().state == "open"


def test_a_task_that_comes_before_the_death_is_noticed(make_pool: MakePool) -> None:
    """A task that is given to a process which has just died runs in another: it never began in that one."""
    pool = make_pool(1, queue_capacity=5)
    pid = pool.submit(work.pid).result(PATIENCE)
    for _ in range(10):
        os.kill(pid, signal.SIGKILL)  # which may not have come to an end yet
        following = pool.submit(work.pid).result(PATIENCE)
        assert following != pid
        pid = following
    assert check(pool.stats()).completed[Result.OK] == 11
    assert pool._engine.workers.rebuilds() == 10


def test_only_what_was_begun_is_lost(make_pool: MakePool, held: Held) -> None:
    """A task that kills its worker fails; what ran beside it goes on, and what waited runs."""
    pool = make_pool(2, queue_capacity=20)
    beside = held.submit(pool)
    held.wait_running(1)
    deadly = pool.submit(work.die)
    waiting = [pool.submit(abs, -number) for number in range(15)]
    with pytest.raises(WorkerLostError, match="may have run in part"):
        deadly.result(PATIENCE)
    assert [future.result(PATIENCE) for future in waiting] == list(range(15))
    assert held.running() == 1
    held.let_go()
    assert beside.result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.completed[Result.PANIC], stats.in_flight) == (16, 1, 0)
    assert make_pool.logs.wait_for("pool.backend_rebuilt")["rebuilds"] == 1


def test_a_slow_factory(make_pool: MakePool, held: Held) -> None:
    """A factory is asked once, however long it takes: it is not what replaces a worker."""
    asked: list[int] = []

    def factory_of(kind: str) -> Callable[[int], Any]:
        def build(workers: int) -> Any:
            asked.append(workers)
            time.sleep(0.5)
            return BACKENDS[kind](workers)

        return build

    pool = make_pool(2, factory=True, factory_of=factory_of, queue_capacity=50)
    beside = held.submit(pool)
    held.wait_running(1)
    futures = [pool.submit(abs, -number) for number in range(20)]
    deadly = pool.submit(work.die)
    futures += [pool.submit(abs, -number) for number in range(20, 40)]
    assert isinstance(deadly.exception(PATIENCE), WorkerLostError)
    assert [future.result(PATIENCE) for future in futures] == list(range(40))
    held.let_go()
    assert beside.result(PATIENCE)
    assert asked == [2]
    assert check(pool.stats()).completed[Result.PANIC] == 1


def test_a_poison_task_takes_no_other_down(make_pool: MakePool, tmp_path: Path) -> None:
    """Of tasks that may be repeated only the one that kills every worker it meets fails, after three runs."""
    pool = make_pool(2, queue_capacity=50)
    view = pool.options(idempotent=True)
    book = tmp_path / "book"
    poison = view.submit(work.poison, str(book))
    others = [view.submit(abs, -number) for number in range(30)]
    with pytest.raises(WorkerLostError):
        poison.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others] == list(range(30))
    assert len(book.read_text().splitlines()) == 3
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.completed[Result.PANIC], stats.in_flight) == (30, 1, 0)


def test_many_poison_tasks(make_pool: MakePool, tmp_path: Path) -> None:
    """However many workers they kill, the pool stays open: each of those has come up."""
    pool = make_pool(2, queue_capacity=50)
    view = pool.options(idempotent=True)
    poisons = [view.submit(work.poison, str(tmp_path / f"book {number}")) for number in range(4)]
    others = [view.submit(abs, -number) for number in range(10)]
    for poison in poisons:
        with pytest.raises(WorkerLostError):
            poison.result(60.0)
    assert [future.result(PATIENCE) for future in others] == list(range(10))
    assert pool._engine.workers.rebuilds() >= 11
    assert check(pool.stats()).state == "open"


def test_expired_when_it_is_to_run_again(make_pool: MakePool) -> None:
    """A task whose deadline has passed by the time it is to be repeated is dropped."""
    pool = make_pool(1, queue_capacity=20)
    pool.submit(int).result(PATIENCE)
    late = pool.options(idempotent=True, deadline=0.5).submit(work.die_late, 0.7)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(TaskExpiredError):
        late.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert check(pool.stats()).in_flight == 0


def test_pickles_no_more_when_it_is_to_run_again(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that cannot be sent again fails by that."""
    monkeypatch.setattr(work.PicklesOnce, "_times", 0)
    pool = make_pool(1, queue_capacity=20)
    seconds: Any = work.PicklesOnce()
    once = pool.options(idempotent=True).submit(work.die_late, seconds)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(UnpicklableError):
        once.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert check(pool.stats()).in_flight == 0


def test_an_initializer_that_fails(make_pool: MakePool) -> None:
    """After five starts in vain the pool closes and says why, and leaves nobody waiting."""
    pool = make_pool(1, queue_capacity=20, factory_of=_failing_in(work.boom))
    futures = [pool.submit(int) for _ in range(5)]
    assert not wait(futures, 120.0).not_done
    make_pool.logs.wait_for("pool.stopped", timeout=PATIENCE)
    with pytest.raises(PoolBrokenError, match="the initializer has failed"):
        pool.submit(int)
    lost = futures[0].exception(0)
    assert isinstance(lost, WorkerLostError)
    assert not lost.began
    broken = lost.__cause__
    assert isinstance(broken, BrokenProcessPool)
    assert isinstance(broken.__cause__, work.TaskError)
    assert "in boom" in str(broken.__cause__.__cause__)
    assert "TaskError" in make_pool.logs.wait_for("pool.backend_broken")["error"]
    stats = check(pool.stats())
    assert (stats.in_flight, stats.dropped[Reason.SHUTDOWN]) == (0, 5)
    assert pool._engine.workers.rebuilds() == 0


@pytest.mark.timeout(240)
def test_a_process_that_dies_before_it_is_ready(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Likewise where the process goes without a word."""
    # Within a minute, that is, which a busy machine may need for five processes that come up and die.
    monkeypatch.setattr(restart_backoff, "FAILURE_PERIOD", 600.0)
    pool = make_pool(1, queue_capacity=20, factory_of=_failing_in(work.die))
    futures = [pool.submit(int) for _ in range(5)]
    assert not wait(futures, 120.0).not_done
    make_pool.logs.wait_for("pool.stopped", timeout=PATIENCE)
    with pytest.raises(PoolBrokenError, match=r"ended with exit code 9.* before it was ready"):
        pool.submit(int)
    stats = check(pool.stats())
    assert (stats.in_flight, stats.dropped[Reason.SHUTDOWN]) == (0, 5)


def test_an_initializer_that_fails_now_and_then(make_pool: MakePool, tmp_path: Path) -> None:
    """A start that fails is tried again, and costs no task."""
    pool = make_pool(1, queue_capacity=20, factory_of=_failing_in(work.fail_twice, str(tmp_path / "book")))
    futures = [pool.submit(abs, -number) for number in range(5)]
    assert [future.result(PATIENCE) for future in futures] == list(range(5))
    assert len((tmp_path / "book").read_text().splitlines()) == 3
    assert check(pool.stats()).state == "open"


def _failing_in(initializer: Callable[..., object], *initargs: Any) -> Callable[[str], Callable[[int], Any]]:
    def factory_of(kind: str) -> Callable[[int], Any]:
        if kind == "loky":
            return lambda workers: loky.ProcessPoolExecutor(
                workers, initializer=initializer, initargs=initargs
            )
        context = multiprocessing.get_context(kind)
        return lambda workers: ProcessPoolExecutor(workers, context, initializer, initargs)

    return factory_of


def test_stop_while_no_worker_comes_up(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop at its deadline ends a pool whose next worker is still to come, and nothing comes after it."""
    monkeypatch.setattr(restart_backoff, "FIRST_DELAY", 600.0)
    pool = make_pool(1, queue_capacity=5, factory_of=_failing_in(work.boom))
    stranded = [pool.submit(int) for _ in range(3)]
    workers: Any = pool._engine.workers
    until(lambda: workers._starter._backoff.delay() > 0.0)
    report = pool.stop(0.2)
    assert (report.drained, report.abandoned) == (False, ())
    assert not wait(stranded, PATIENCE).not_done
    assert all(future.cancelled() for future in stranded)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(300)
def test_a_storm(make_pool: MakePool, kind: str) -> None:
    """Workers are killed all the while: every task that may be repeated completes, each counted once."""
    # The others take longer to start a process than to run a hundred of these tasks.
    count, every = (2_000, 0.05) if kind == "fork" else (400, 0.25)
    pool = make_pool(4, overload="block", queue_capacity=100)
    kills: list[int] = []
    turns = itertools.count()

    def kill_one() -> None:
        # Any of those that are up, but not one whose task would be lost for good: its third run.
        workers = [each for each in list(pool._engine.dispatcher.worker_set.workers) if each.begun]
        tasks: list[Any] = [(each, each.task) for each in workers]
        fair: list[Any] = [each for each, task in tasks if task is None or task.attempt < 3]
        if fair:
            process = fair[next(turns) % len(fair)].process
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                kills.append(process.pid)

    view = pool.options(idempotent=True)
    futures: list[Future[int]] = []
    ends_at = time.monotonic() + 60.0
    with meanwhile(kill_one, every):
        while len(futures) < count or not (len(set(kills)) >= 5 or time.monotonic() > ends_at):
            futures.append(view.submit(work.slowly, len(futures)))
        left = wait(futures, 100.0).not_done
    assert not left
    assert [future.result(0) for future in futures] == list(range(len(futures)))
    assert len(set(kills)) >= 5
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.in_flight) == (len(futures), 0)
    assert pool.stop(PATIENCE).drained
