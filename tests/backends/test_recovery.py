"""A backend given as a factory is built anew when it breaks, and only what was lost is lost."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import PoolBrokenError, Reason, Result, WorkerLostError
from prodpool.workers import supply
from tests.api.gates import until
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, meanwhile, over_processes
from tests.core.rig import check, scrape

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.parametrize("kind", over_processes, indirect=True),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


def test_a_killed_worker_is_replaced(make_pool: MakePool, held: Held, registry: CollectorRegistry) -> None:
    """After an idle worker was killed the pool goes on with a new backend, says so, and counts it."""
    pool = make_pool(2, factory=True)
    # Both are up: a ProcessPoolExecutor that starts one while it finds another dead may lose its thread.
    idle = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    held.let_go()
    pids = [future.result(PATIENCE) for future in idle]
    os.kill(pids[0], signal.SIGKILL)
    # The backend takes note of it in its own time; then the next task meets a broken one.
    view = pool.options(idempotent=True)
    until(lambda: view.submit(abs, -1).result(PATIENCE) == 1 and pool._engine.workers.rebuilds() == 1)
    assert make_pool.logs.wait_for("pool.backend_rebuilt")["rebuilds"] == 1
    samples = scrape(registry)
    assert samples[f'workerpool_backend_rebuilds_total{{pool="{pool.name}"}}'] == 1.0
    assert pool.stats().state == "open"


def test_only_what_was_begun_is_lost(make_pool: MakePool, tmp_path: Path) -> None:
    """A task that kills its worker fails, and so does what ran beside it; what waited runs on the new one."""
    pool = make_pool(2, factory=True, queue_capacity=20)
    mark = tmp_path / "hangs"
    beside = pool.submit(work.hang, str(mark))
    until(mark.exists)
    deadly = pool.submit(work.die)
    waiting = [pool.submit(abs, -number) for number in range(15)]
    for future in (beside, deadly):
        with pytest.raises(WorkerLostError, match="may have run in part"):
            future.result(PATIENCE)
    assert [future.result(PATIENCE) for future in waiting] == list(range(15))
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.completed[Result.PANIC], stats.in_flight) == (15, 2, 0)
    assert make_pool.logs.wait_for("pool.backend_rebuilt")["rebuilds"] == 1


def test_a_poison_task_takes_no_other_down(make_pool: MakePool, tmp_path: Path) -> None:
    """Of tasks that may be repeated only the one that kills every worker it meets fails, after three runs."""
    pool = make_pool(2, factory=True, queue_capacity=50)
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


@pytest.mark.timeout(240)
def test_a_backend_that_never_works(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five backends without one success the pool closes with a clear error, and forgets nothing."""
    # Within a minute, that is, which a busy machine may need for six processes that come up and die.
    monkeypatch.setattr(supply, "WITHIN", 600.0)
    pool = make_pool(1, factory=True, queue_capacity=20, factory_of=_stillborn)
    futures = [pool.submit(int) for _ in range(5)]
    assert not wait(futures, 120.0).not_done
    assert all(isinstance(future.exception(0), WorkerLostError) for future in futures)
    make_pool.logs.wait_for("pool.backend_broken", timeout=PATIENCE)
    make_pool.logs.wait_for("pool.stopped", timeout=PATIENCE)
    with pytest.raises(PoolBrokenError):
        pool.submit(int)
    stats = check(pool.stats())
    assert stats.in_flight == 0
    assert stats.dropped[Reason.SHUTDOWN] + stats.completed[Result.PANIC] == 5


def _stillborn(kind: str) -> Callable[[int], Any]:
    context = multiprocessing.get_context(kind)
    return lambda workers: ProcessPoolExecutor(workers, mp_context=context, initializer=work.die)


def test_stop_while_the_backend_is_down(make_pool: MakePool) -> None:
    """A stop at its deadline ends a pool whose next backend is still to come, and nothing comes after it."""
    pool = make_pool(1, factory=True, queue_capacity=5)
    workers: Any = pool._engine.workers
    workers._supply._delay = 600.0
    deadly = pool.submit(work.die)
    assert isinstance(deadly.exception(PATIENCE), WorkerLostError)
    stranded = [pool.submit(int) for _ in range(3)]
    report = pool.stop(0.2)
    assert not report.drained
    assert not wait(stranded, PATIENCE).not_done


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(300)
# The manager thread of a broken ProcessPoolExecutor may meet a process that a submit is just adding.
@pytest.mark.filterwarnings(
    "ignore:[^$]*dictionary changed size:pytest.PytestUnhandledThreadExceptionWarning"
)
def test_a_storm(make_pool: MakePool, kind: str, tmp_path: Path) -> None:
    """Workers are killed all the while: every task that may be repeated completes, each counted once."""
    count = 2_000 if kind == "fork" else 300
    pool = make_pool(4, factory=True, overload="block", queue_capacity=100)
    kills: list[int] = []

    def kill_one() -> None:
        # Only where several tasks run: a backend that is killed while it starts proves nothing, and a task
        # that is tried alone and killed from outside three times would be lost, as it should be.
        seats: list[Any] = list(pool._engine.dispatcher.roster.workers)
        pids = [sighting.pid for seat in seats if (sighting := seat.sighting()) is not None]
        if len(pids) > 1:
            kills.append(pids[0])
            with contextlib.suppress(ProcessLookupError):  # its backend was broken already
                os.kill(pids[0], signal.SIGKILL)

    view = pool.options(idempotent=True)
    futures: list[Future[int]] = []
    ends_at = time.monotonic() + 60.0
    with meanwhile(kill_one, 0.2):
        # Several at a time are not often seen on a machine that does something else.
        while len(futures) < count or not (kills or time.monotonic() > ends_at):
            futures.append(view.submit(work.slowly, len(futures)))
        left = wait(futures, 100.0).not_done
    assert not left
    assert [future.result(0) for future in futures] == list(range(len(futures)))
    assert kills
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.in_flight) == (len(futures), 0)
    assert pool.stop(PATIENCE).drained
