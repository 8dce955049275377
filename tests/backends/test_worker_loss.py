"""What is lost with a worker process is exactly what it had begun, and no process outlives its service."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import Future, wait
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

from prodpool import Result, WorkerLostError
from prodpool.workers.processes import worker_losses
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, meanwhile, over_processes
from tests.helpers.accounting import check
from tests.helpers.waiting import until
from tests.support import ROOT, runs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
each = pytest.mark.parametrize("kind", over_processes, indirect=True)


@each
@pytest.mark.parametrize(
    ("call", "how"),
    [
        ((work.exit_with, 7), r"ended with exit code 7, as one does that calls os\._exit"),
        ((work.kill_itself, signal.SIGKILL), "was killed by SIGKILL, which the system sends when memory"),
        ((work.kill_itself, signal.SIGSEGV), "was killed by SIGSEGV: a fault in an extension module"),
        ((work.kill_itself, signal.SIGTERM), "was killed by SIGTERM, which asks a process to end"),
    ],
)
def test_how_it_ended(make_pool: MakePool, call: tuple[Any, ...], how: str) -> None:
    """The error says which process it was, and how that came to its end; so does the log."""
    pool = make_pool(1)
    pid = pool.submit(work.pid).result(PATIENCE)
    with pytest.raises(WorkerLostError, match=f"its worker process {pid} {how}") as caught:
        pool.submit(*call).result(PATIENCE)
    assert caught.value.began
    line = make_pool.logs.wait_for("pool.backend_rebuilt")
    assert caught.value.detail == f"its worker {line['died']}"
    assert pool.submit(work.pid).result(PATIENCE) != pid


@each
def test_nobody_waits_for_it_any_more(make_pool: MakePool, held: Held) -> None:
    """A task that may be repeated is not, once it was cancelled: it would run for nobody."""
    pool = make_pool(1)
    future = held.submit(pool.options(idempotent=True))
    held.wait_running(1)
    assert not future.cancel()
    (pid,) = held.pids()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(future.exception(PATIENCE), WorkerLostError)
    assert pool.submit(work.pid).result(PATIENCE) != pid
    assert pool.stats().completed[Result.PANIC] == 1


@each
def test_it_runs_once(make_pool: MakePool, held: Held, tmp_path: Path) -> None:
    """A task that may not be repeated and ends its process has run once, and costs nobody else anything."""
    pool = make_pool(2, queue_capacity=50)
    beside = held.submit(pool)
    held.wait_running(1)
    book = tmp_path / "book"
    before = [pool.submit(abs, -number) for number in range(20)]
    deadly = pool.submit(work.poison, str(book), 3)
    after = [pool.submit(abs, -number) for number in range(20)]
    with pytest.raises(WorkerLostError, match="exit code 3"):
        deadly.result(PATIENCE)
    assert [future.result(PATIENCE) for future in [*before, *after]] == [*range(20), *range(20)]
    held.let_go()
    assert beside.result(PATIENCE)
    assert len(book.read_text().splitlines()) == 1
    stats = check(pool.stats())
    assert (stats.state, stats.completed[Result.PANIC], stats.completed[Result.OK]) == ("open", 1, 41)


@each
@pytest.mark.parametrize("how", ["fork", "program"])
@pytest.mark.parametrize("code", [3, None])
def test_what_a_task_has_started_holds_nothing_up(
    make_pool: MakePool, tmp_path: Path, how: str, code: int | None
) -> None:
    """Neither a worker's end nor a stop waits for what a task has started, whatever that has inherited."""
    pool = make_pool(1)
    pool.submit(int).result(PATIENCE)
    mark = tmp_path / "child"
    left = pool.submit(work.leave_behind, how, str(mark), code)
    try:
        assert isinstance(left.exception(PATIENCE), WorkerLostError if code else NoneType)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        report = pool.stop(PATIENCE)
        assert report.drained
        assert not pool._engine.workers.owned_threads_or_processes()
        assert runs(int(mark.read_text()))
    finally:
        os.kill(int(mark.read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["fork", pytest.param("forkserver", marks=pytest.mark.once)], indirect=True)
def test_a_storm_over_what_may_run_once(make_pool: MakePool, kind: str, tmp_path: Path) -> None:
    """Of tasks that may not be repeated those fail that had begun on a killed worker; none runs twice."""
    count, every = (2_000, 0.05) if kind == "fork" else (500, 0.25)
    pool = make_pool(4, overload="block", queue_capacity=100)
    book = tmp_path / "book"
    futures: list[Future[None]] = []
    killed: set[int] = set()

    def kill_one() -> None:
        # One that has begun a task and not ended it, as far as can be seen from here.
        busy: dict[int, int] = {}
        for word, number, pid in _lines(book):
            if word == "begin":
                busy[number] = pid
            else:
                busy.pop(number, None)
        for pid in busy.values():
            if pid not in killed and runs(pid):
                killed.add(pid)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                return

    book.touch()
    ends_at = time.monotonic() + 60.0
    with meanwhile(kill_one, every):
        while len(futures) < count or not (len(killed) >= 5 or time.monotonic() > ends_at):
            futures.append(pool.submit(work.record, str(book), len(futures)))
        assert not wait(futures, 60.0).not_done
    lines = _lines(book)
    begun = Counter(number for word, number, _ in lines if word == "begin")
    ended = {number for word, number, _ in lines if word == "end"}
    failed = {number for number, future in enumerate(futures) if future.exception(0) is not None}
    assert all(isinstance(futures[number].exception(0), WorkerLostError) for number in failed)
    assert len(killed) >= 5
    assert max(begun.values()) == 1
    # One may have been killed before its first line, and one after its last.
    assert set(range(len(futures))) - ended <= failed
    # And one process just between two tasks, or after the last of all.
    assert len(killed) / 2 < len(failed) <= len(killed)
    stats = check(pool.stats())
    succeeded = len(futures) - len(failed)
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK]) == (len(failed), succeeded)
    assert pool._engine.workers.rebuilds() >= len(killed) - 4


def _lines(book: Path) -> list[tuple[str, int, int]]:
    lines = [line.split() for line in book.read_text().splitlines()]
    return [(word, int(number), int(pid)) for word, number, pid in lines]


@pytest.mark.once
@each
def test_no_worker_outlives_its_service(kind: str, tmp_path: Path) -> None:
    """When the service is killed its worker processes end, busy and idle ones."""
    command = [sys.executable, "-m", "tests.backends.orphans", kind, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as service:
        try:
            # Processes come up one after the other, and each imports the package.
            until((tmp_path / "hangs").exists, 2 * PATIENCE)
            assert len(running_in(service.pid)) > 2
        finally:
            service.kill()
    try:
        until(lambda: not running_in(service.pid), PATIENCE)
    finally:
        for pid in running_in(service.pid):
            os.kill(pid, signal.SIGKILL)


def running_in(session: int) -> list[int]:
    """Return the pids of what runs in a session, which is a process and all that it has started."""
    pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            if os.getsid(pid) == session and runs(pid):
                found.append(pid)
    return found


@pytest.mark.parametrize("step", ["how_it_ended", "WorkerLostError"])
@pytest.mark.parametrize("kind", ["fork"], indirect=True)
def test_no_memory_for_a_loss(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, step: str
) -> None:
    """Where there is no memory to settle a loss it is tried again: the task fails once, the next one runs."""
    real, failed = getattr(worker_losses, step), list[str]()

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        if not failed:
            failed.append(step)
            raise MemoryError
        return real(*args, **kwargs)

    monkeypatch.setattr(worker_losses, step, fails_once)
    pool = make_pool(1)
    book = tmp_path / "book"
    with pytest.raises(WorkerLostError):
        pool.submit(work.attempt, str(book), 1).result(PATIENCE)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert failed == [step]
    assert len(book.read_text().splitlines()) == 1
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK]) == (1, 1)
