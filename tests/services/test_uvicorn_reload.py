"""Pools of an application that a real `uvicorn --reload` starts again and again."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from tests.helpers.waiting import PATIENCE, until
from tests.services.service import listening, living, service

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(300)]
RESTARTS = 20
SOURCE = """
import asyncio, logging
import prodpool
from prodpool.integrations.fastapi import pool_lifespan
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

logging.basicConfig(level=logging.WARNING)


def threads():
    return prodpool.threads(name="threads", max_workers=4, queue_capacity=64)


def processes():
    return prodpool.processes(name="processes", max_workers=1, queue_capacity=64)


async def add(request):
    pools = request.state.worker_pools
    found = await asyncio.gather(*(pool.run(abs, -VERSION) for pool in pools.values()))
    return PlainTextResponse(str(max(found)))


app = Starlette(routes=[Route("/", add)], lifespan=pool_lifespan(threads, processes))
"""


class Reloaded:
    """An application file, and a client of the server that reloads it."""

    def __init__(self, file: Path, port: int) -> None:
        self._file = file
        self._url = f"http://127.0.0.1:{port}"
        self._http = urllib3.PoolManager(maxsize=4, retries=False, timeout=PATIENCE)
        self.answers: Counter[int] = Counter()

    def write(self, version: int) -> None:
        """Save the file, with a time of change that is later than that of the one before."""
        new = self._file.with_suffix(".new")
        new.write_text(f"VERSION = {version}\n{SOURCE}")
        os.utime(new, (version, version))
        new.replace(self._file)

    def version(self) -> int:
        """Ask for the version that is served; 0 if the connection is closed unanswered.

        uvicorn closes connections at its end on which it has read no request yet.
        """
        try:
            answer = self._http.request("GET", self._url, headers={"Connection": "close"})
        except urllib3.exceptions.ProtocolError:
            return 0
        self.answers[answer.status] += 1
        return int(answer.data) if answer.status == 200 else -1

    @contextmanager
    def load(self) -> Iterator[None]:
        """Have a client send one request after the other throughout the block."""
        over = threading.Event()

        def ask() -> None:
            while not over.wait(0.01):
                self.version()

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(2 * PATIENCE)


def held_by(pid: int) -> tuple[int, int]:
    """Return the number of threads and of open files of a process."""
    threads, files = (list(Path(f"/proc/{pid}/{kind}").iterdir()) for kind in ("task", "fd"))
    return len(threads), len(files)


@contextmanager
def reloading(tmp_path: Path, temporary: Path) -> Iterator[tuple[Reloaded, int]]:
    """Serve the application with its first version until the block ends; yields the reloader's pid too."""
    folder = tmp_path / "app"
    folder.mkdir()
    temporary.mkdir()
    with listening() as (number, port):
        served = Reloaded(folder / "reloaded_app.py", port)
        served.write(1)
        command = ["-m", "uvicorn", "reloaded_app:app", "--reload", f"--fd={number}", f"--app-dir={folder}"]
        command += [f"--reload-dir={folder}", "--reload-delay=0.05", "--no-access-log"]
        env = {"TMPDIR": str(temporary), "PYTHONWARNINGS": "always"}
        with service(command, tmp_path / "uvicorn.log", env, [number], signal.SIGTERM) as server:
            server.until_logged("Application startup complete")
            yield served, server.process.pid


def test_twenty_restarts(tmp_path: Path) -> None:
    """Under load no request gets an error, and no process, thread, file or warning of ours is left.

    A fork server's folder stays: multiprocessing removes it at Python's exit, which SIGTERM does not let
    uvicorn come to. `service` looks for processes once more when the server has ended.
    """
    temporary = tmp_path / "tmp"
    with reloading(tmp_path, temporary) as (served, reloader):
        until(lambda: served.version() == 1)
        at_first, processes = held_by(reloader), len(living(reloader))
        with served.load():
            for version in range(2, RESTARTS + 2):
                served.write(version)
                until(lambda version=version: served.version() == version)  # type: ignore[misc]
        assert held_by(reloader) == at_first
        until(lambda: len(living(reloader)) == processes)
    log = (tmp_path / "uvicorn.log").read_text()
    assert log.count("Application shutdown complete") == RESTARTS + 1
    # multiprocessing's resource tracker says what has leaked in shared memory.
    assert [word for word in ("Traceback", "ERROR", "Warning", "leaked") if word in log] == []
    assert set(served.answers) == {200}
    left = [path.name for path in temporary.rglob("*")]
    folders = [name for name in left if name.startswith("pymp-")]
    assert sorted(left) == sorted(folders + [name for name in left if name.startswith("listener-")])
    assert len(left) <= 2 * len(folders) <= 2 * (RESTARTS + 1)
