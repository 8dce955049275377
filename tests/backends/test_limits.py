"""A run-time limit ends a task, by force where that can be done; and what a task is told of its time."""

from __future__ import annotations

import itertools
import math
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import pytest

from prodpool import (
    Reason,
    Result,
    TaskExpiredError,
    TaskTimeoutError,
    UnpicklableError,
    WorkerLostError,
)
from prodpool.shutdown import phases
from prodpool.workers.in_worker.frames import Frame, FrameReader
from prodpool.workers.processes.connection import WorkerConnection
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, over_processes
from tests.helpers.accounting import check
from tests.helpers.waiting import LEEWAY, until
from tests.support import child_processes, runs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
only_processes = pytest.mark.parametrize("kind", over_processes, indirect=True)
others = pytest.mark.parametrize(
    "kind", [pytest.param("dask", marks=pytest.mark.once), "other"], indirect=True
)


@only_processes
def test_killed_at_its_limit(make_pool: MakePool, held: Held, tmp_path: Path) -> None:
    """A task that runs too long is killed with its worker, counted and logged; nobody else notices."""
    pool = make_pool(2, queue_capacity=20)
    beside = held.submit(pool)
    held.wait_running(1)
    # The process that runs such a task may not get as far as to say its own name within the limit.
    pid = pool.submit(work.pid).result(PATIENCE)
    hung = pool.options(task="hangs", timeout=0.2).submit(work.hang, str(tmp_path / "hangs"))
    after = [pool.submit(abs, -number) for number in range(10)]
    with pytest.raises(TaskTimeoutError, match=r"'hangs' .* killed after 0.2 s") as caught:
        hung.result(PATIENCE)
    assert (caught.value.timeout, caught.value.task, caught.value.pool) == (0.2, "hangs", pool.name)
    assert isinstance(caught.value, TimeoutError)
    until(lambda: not runs(pid))
    assert make_pool.logs.wait_for("task.error")["task"] == "hangs"
    assert [future.result(PATIENCE) for future in after] == list(range(10))
    held.let_go()
    assert beside.result(PATIENCE)
    stats = check(pool.stats())
    assert (stats.completed[Result.TIMEOUT], stats.completed[Result.OK], stats.in_flight) == (1, 12, 0)
    # Nothing has broken: it was killed by the pool itself.
    assert pool._engine.workers.rebuilds() == 0
    assert not make_pool.logs.named("pool.backend_rebuilt")


@only_processes
def test_killed_at_once(make_pool: MakePool, tmp_path: Path) -> None:
    """The limit is kept to a fraction of a second, counted from when the task begins."""
    pool = make_pool(2, queue_capacity=20)
    pool.submit(int).result(PATIENCE)  # a worker is up
    late = []
    for number in range(3):
        mark = tmp_path / str(number)
        hung = pool.options(timeout=0.5).submit(work.hang_since, str(mark))
        others = [pool.submit(abs, -other) for other in range(5)]
        with pytest.raises(TaskTimeoutError):
            hung.result(PATIENCE)
        late.append(time.monotonic() - float(mark.read_text()) - 0.5)
        assert [other.result(PATIENCE) for other in others] == list(range(5))
    # A busy machine may be late once and again.
    assert min(late) < 0.2
    assert max(late) < LEEWAY
    assert check(pool.stats()).completed[Result.TIMEOUT] == 3


@only_processes
def test_a_callback_keeps_no_other_limit(make_pool: MakePool, tmp_path: Path) -> None:
    """A task is killed at its limit also while the done-callback of another goes on and on."""
    pool = make_pool(2, queue_capacity=20)
    killed, called = threading.Event(), threading.Event()
    outlasted: list[bool] = []

    def call_back(_: object) -> None:
        called.set()
        outlasted.append(killed.wait(PATIENCE))

    short = pool.submit(abs, -1)
    hung = pool.options(timeout=0.3).submit(work.hang, str(tmp_path / "hangs"))
    hung.add_done_callback(lambda _: killed.set())
    short.add_done_callback(call_back)
    assert called.wait(PATIENCE)
    assert isinstance(hung.exception(PATIENCE), TaskTimeoutError)
    until(lambda: outlasted)
    assert outlasted == [True]


@only_processes
def test_killed_in_the_midst_of_its_result(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that passes while a large result is on its way settles the task, and a stop ends."""
    pool = make_pool(1, queue_capacity=20)
    pid = pool.submit(work.pid).result(PATIENCE)
    fill = FrameReader.fill
    amounts = itertools.count()

    def fill_until_killed(reader: FrameReader, flags: int = 0) -> None:
        if next(amounts) == 20:  # a megabyte or so
            until(lambda: not runs(pid))
        fill(reader, flags)

    monkeypatch.setattr(FrameReader, "fill", fill_until_killed)
    with pytest.raises(TaskTimeoutError):
        pool.options(timeout=2.0).submit(bytes, 50_000_000).result(PATIENCE)
    assert len(pool.submit(bytes, 50_000_000).result(PATIENCE)) == 50_000_000
    assert pool.stop(PATIENCE).drained


@only_processes
def test_killed_when_it_has_just_ended(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task whose process is killed with its outcome on the way has that; the next task is not lost."""
    pool = make_pool(1, queue_capacity=20)
    pid = pool.submit(work.pid).result(PATIENCE)
    receive = WorkerConnection.receive

    def receive_late(line: WorkerConnection, *, briefly: bool = False) -> Frame | None:
        if next(calls) == 0:
            until(lambda: not runs(pid))
        return receive(line, briefly=briefly)

    calls = itertools.count()
    monkeypatch.setattr(WorkerConnection, "receive", receive_late)
    first = pool.options(timeout=0.5).submit(abs, -1)
    second = pool.submit(abs, -2)
    assert (first.result(PATIENCE), second.result(PATIENCE)) == (1, 2)
    assert check(pool.stats()).completed[Result.OK] == 3


@only_processes
def test_within_its_limit(make_pool: MakePool) -> None:
    """A task that ends in time is like any other, and the next takes over its worker."""
    pool = make_pool(1, queue_capacity=5)
    view = pool.options(timeout=60.0)
    first, second = (view.submit(work.pid).result(PATIENCE) for _ in range(2))
    assert first == second
    with pytest.raises(work.TaskError):
        view.submit(work.boom).result(PATIENCE)
    with pytest.raises(UnpicklableError):
        view.submit(repr, work.DoesNotPickle()).result(PATIENCE)
    assert view.submit(work.pid).result(PATIENCE) == first
    assert check(pool.stats()).in_flight == 0


@only_processes
def test_no_limit_at_all(make_pool: MakePool) -> None:
    """``math.inf`` seconds are for ever."""
    pool = make_pool(1)
    assert pool.options(timeout=math.inf).submit(work.slowly, 1).result(PATIENCE) == 1


@only_processes
def test_bounds_with_limits(make_pool: MakePool, held: Held) -> None:
    """Tasks with a limit and without take the same workers: never more run than those."""
    pool = make_pool(2, queue_capacity=8)
    views = itertools.cycle([pool, pool.options(timeout=60.0)])
    futures = [held.submit(view) for view, _ in zip(views, range(8), strict=False)]
    held.wait_running(2)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (2, 6)
    held.let_go()
    assert not wait(futures, PATIENCE).not_done
    assert held.most_at_once() == 2
    assert check(pool.stats()).completed[Result.OK] == 8


@only_processes
def test_fewer_workers_than_the_backend_has(make_pool: MakePool, held: Held) -> None:
    """With ``max_workers`` below the backend's own number, no more run than the pool allows."""
    pool = make_pool(3, max_workers=1, queue_capacity=4)
    futures = [held.submit(pool) for _ in range(4)]
    held.wait_running(1)
    pool.resize(2)
    held.wait_running(2)
    assert check(pool.stats()).running == 2
    held.let_go()
    assert not wait(futures, PATIENCE).not_done
    assert held.most_at_once() == 2


@only_processes
def test_a_factory_grows(make_pool: MakePool, held: Held) -> None:
    """A pool over a factory gets more workers when it is resized; what runs goes on."""
    pool = make_pool(1, factory=True, queue_capacity=4)
    first = held.submit(pool)
    held.wait_running(1)
    pool.resize(3)
    futures = [held.submit(pool) for _ in range(2)]
    held.wait_running(3)
    assert check(pool.stats()).workers == 3
    held.let_go()
    assert len({future.result(PATIENCE) for future in [first, *futures]}) == 3
    assert pool._engine.workers.rebuilds() == 0


@only_processes
def test_more_than_the_executor_has(make_pool: MakePool, held: Held) -> None:
    """The executor is a recipe only: a pool has as many workers as it is told."""
    pool = make_pool(1, queue_capacity=4)
    pool.resize(3)
    futures = [held.submit(pool) for _ in range(4)]
    held.wait_running(3)
    stats = check(pool.stats())
    assert (stats.workers, stats.running, stats.queued) == (3, 3, 1)
    held.let_go()
    assert len({future.result(PATIENCE) for future in futures}) == 3


@only_processes
def test_no_more_than_a_shared_executor_has(make_pool: MakePool) -> None:
    """An executor that others use as well does not grow; the pool keeps its size."""
    pool = make_pool(1, own_backend=False)
    try:
        with pytest.raises(ValueError, match="max_workers=2 is more than the 1 workers of the backend"):
            pool.resize(2)
        assert pool.stats().workers == 1
    finally:
        pool._engine.backend.shutdown()


@others
def test_a_limit_where_nothing_can_be_killed(make_pool: MakePool) -> None:
    """Elsewhere the task is told, and its result counts as any other."""
    pool = make_pool(1)
    began = time.monotonic()
    name, of, attempt, remaining = (
        pool.options(task="patient", timeout=0.1, deadline=60.0).submit(work.late).result(PATIENCE)
    )
    assert (name, of, attempt) == ("patient", pool.name, 1)
    assert time.monotonic() - began >= 0.1
    assert remaining is not None
    assert 0.0 < remaining < 60.0
    assert check(pool.stats()).completed[Result.OK] == 1


def test_no_task_outside(make_pool: MakePool) -> None:
    """A worker that has run a task knows of none once it has ended."""
    pool = make_pool(1)
    assert pool.submit(work.nested).result(PATIENCE)
    assert pool.submit(work.nested).result(PATIENCE)


@only_processes
@pytest.mark.usefixtures("exact_reports")
def test_asked_to_end_by_stop(make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the stop deadline a task in a worker process is asked to end, and may."""
    # A busy machine may need more than the usual for it.
    monkeypatch.setattr(phases, "CANCEL_GRACE", PATIENCE)
    pool = make_pool(1)
    mark = tmp_path / "runs"
    asked = pool.submit(work.until_asked, str(mark))
    until(mark.exists)
    report = pool.stop(0.1)
    assert asked.result(PATIENCE) is True
    assert (report.drained, report.abandoned) == (True, ())


@only_processes
@pytest.mark.usefixtures("exact_reports")
def test_stop_kills_what_has_a_limit(make_pool: MakePool, tmp_path: Path) -> None:
    """A stop ends all worker processes, busy and idle ones."""
    pool = make_pool(2, queue_capacity=5)
    idle = pool.options(timeout=60.0).submit(work.pid).result(PATIENCE)
    mark = tmp_path / "hangs"
    hung = pool.options(timeout=60.0, task="hangs").submit(work.hang, str(mark))
    until(mark.exists)
    report = pool.stop(0.1)
    assert report.abandoned == ("hangs",)
    assert isinstance(hung.exception(0), WorkerLostError)
    until(lambda: not (runs(idle) or runs(int(mark.read_text()))))
    until(lambda: pool.stats().in_flight == 0)
    check(pool.stats())


@only_processes
def test_stop_before_it_begins(make_pool: MakePool, tmp_path: Path) -> None:
    """A stop that comes while tasks with a limit are only being handed over leaves no process behind."""
    before = child_processes()
    pool = make_pool(2, queue_capacity=5)
    futures = [pool.options(timeout=60.0).submit(work.hang, str(tmp_path / "mark")) for _ in range(5)]
    pool.stop(0.0)
    assert not wait(futures, PATIENCE).not_done
    until(lambda: pool.stats().in_flight == 0)
    until(lambda: child_processes() <= before)
    check(pool.stats())


@only_processes
def test_a_lost_worker_of_its_own(make_pool: MakePool, tmp_path: Path) -> None:
    """A task with a limit that kills its worker harms only itself; one that may be repeated is."""
    pool = make_pool(1, queue_capacity=5)
    book = tmp_path / "book"
    with pytest.raises(WorkerLostError):
        pool.options(timeout=60.0).submit(work.attempt, str(book), 1).result(PATIENCE)
    again = pool.options(timeout=60.0, idempotent=True)
    assert again.submit(work.attempt, str(book), 2).result(PATIENCE) == 3
    with pytest.raises(WorkerLostError):
        again.submit(work.attempt, str(book), 3).result(PATIENCE)
    assert len(book.read_text().splitlines()) == 1 + 3 + 3
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK], stats.state) == (2, 1, "open")


@only_processes
def test_expired_behind_another(make_pool: MakePool, held: Held) -> None:
    """A deadline that passes while a task waits behind another keeps it from running."""
    pool = make_pool(1, queue_capacity=3)
    held.submit(pool)
    held.wait_running(1)
    late = pool.options(deadline=0.05).submit(work.boom)
    wait([late], 0.1)
    held.let_go()
    with pytest.raises(TaskExpiredError):
        late.result(PATIENCE)
    assert check(pool.stats()).dropped[Reason.EXPIRED] == 1
