"""What is lost with a worker process is exactly what it had begun, and no process outlives its service."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from prodpool import Result, WorkerLostError
from tests.api.gates import until
from tests.backends import work
from tests.backends.conftest import PATIENCE, MakePool, meanwhile, over_processes
from tests.core.rig import check
from tests.support import ROOT, runs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forkserver"], indirect=True)
def test_a_storm_over_what_may_run_once(make_pool: MakePool, tmp_path: Path) -> None:
    """Of tasks that may not be repeated those fail that had begun on a killed worker; none runs twice."""
    pool = make_pool(2, factory=True, overload="block", queue_capacity=20)
    book = tmp_path / "book"
    futures: list[Future[None]] = []

    def kill_one() -> None:
        seats: list[Any] = list(pool._engine.dispatcher.roster.workers)
        for sighting in [sighting for seat in seats if (sighting := seat.sighting()) is not None][:1]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sighting.pid, signal.SIGKILL)

    def lost() -> bool:
        return any(future.done() and future.exception(0) is not None for future in futures)

    ends_at = time.monotonic() + PATIENCE
    with meanwhile(kill_one, 0.3):
        # One that is killed between two tasks takes none with it.
        while len(futures) < 150 or not (lost() or time.monotonic() > ends_at):
            futures.append(pool.submit(work.record, str(book), len(futures)))
    assert not wait(futures, PATIENCE).not_done
    lines = [line.split() for line in book.read_text().splitlines()]
    begun = [int(number) for word, number in lines if word == "begin"]
    ended = {int(number) for word, number in lines if word == "end"}
    failed = {number for number, future in enumerate(futures) if future.exception(0) is not None}
    assert all(isinstance(futures[number].exception(0), WorkerLostError) for number in failed)
    assert failed
    assert len(begun) == len(set(begun))
    # One may have been killed before its first line, and one after its last.
    assert set(range(len(futures))) - ended <= failed
    stats = check(pool.stats())
    succeeded = len(futures) - len(failed)
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK]) == (len(failed), succeeded)


@pytest.mark.once
@pytest.mark.parametrize("kind", over_processes, indirect=True)
def test_no_worker_outlives_its_service(kind: str, tmp_path: Path) -> None:
    """When the service is killed its worker processes end, busy and idle ones."""
    command = [sys.executable, "-m", "tests.backends.orphans", kind, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True) as service:
        try:
            # Three processes come up one after the other, and each imports the package.
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
