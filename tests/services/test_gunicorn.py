"""Pools that an application builds at import, behind a real gunicorn that forks its workers after that."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import urllib3

from tests.helpers.waiting import PATIENCE, until
from tests.services.service import POOLS
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(180)]


class Served:
    """A gunicorn that serves `wsgi_app`."""

    def __init__(self, socket_number: int, port: int, log: Path, env: dict[str, str]) -> None:
        self.log = log
        self._http = urllib3.PoolManager(maxsize=8, retries=False, timeout=PATIENCE)
        self._url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers=2", "--threads=4"]
        command += [f"--bind=fd://{socket_number}", "--graceful-timeout=20", f"--pythonpath={ROOT}"]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [*command, "tests.services.wsgi_app:application"],
                stdout=stream,
                stderr=stream,
                cwd=ROOT,
                env={**os.environ, **env},
                pass_fds=[socket_number],
            )

    def get(self, path: str) -> bytes:
        """Fetch a page, over a connection of its own: gunicorn may give each to another worker."""
        answer = self._http.request("GET", f"{self._url}/{path}", headers={"Connection": "close"})
        assert answer.status == 200, answer.data
        return answer.data

    def answers(self, pool: str, count: int) -> tuple[set[object], set[int]]:
        """Submit so many tasks; return the different answers, and the processes that gave them."""
        answers = [json.loads(self.get(pool)) for _ in range(count)]
        return {answer for answer, _ in answers}, {pid for _, pid in answers}


@contextmanager
def served(tmp_path: Path, **env: str) -> Iterator[Served]:
    """Serve until the block ends, which must go well."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        service = Served(listener.fileno(), listener.getsockname()[1], tmp_path / "gunicorn.log", env)
        try:
            until(lambda: service.log.read_text().count("Booting worker") == 2)
            yield service
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(PATIENCE) == 0, service.log.read_text()
        finally:
            service.process.kill()
            service.process.wait()


def test_pools_built_before_the_fork(tmp_path: Path) -> None:
    """Every pool that was not used before the fork works in each worker, and counts from 0 there."""
    with served(tmp_path) as service:
        workers: set[int] = set()
        for pool in POOLS:
            answers, pids = service.answers(pool, 8)
            assert answers == {5}, service.log.read_text()
            workers |= pids
        assert service.process.pid not in workers
        counted = re.findall(
            rb'^workerpool_submitted_total\{pool="(\w+)"\} (\S+)', service.get("metrics"), re.MULTILINE
        )
        assert {name.decode() for name, _ in counted} <= set(POOLS)
        assert 0 < sum(float(number) for _, number in counted) <= 8 * len(POOLS)
    assert "pool.forked" not in service.log.read_text()


@pytest.mark.parametrize("used", POOLS)
def test_a_pool_used_before_the_fork(tmp_path: Path, used: str) -> None:
    """It starts anew in each worker where it can, and else says why not, once in each process."""
    with served(tmp_path, USED_POOLS=used) as service:
        answers, pids = service.answers(used, 12)
    lines = [line for line in service.log.read_text().splitlines() if "pool.forked" in line]
    if used == "executor":
        assert {str(answer).partition(":")[0] for answer in answers} == {"PoolForkedError"}
        assert len(lines) == len(pids)
        assert lines[0].startswith("ERROR:prodpool:pool.forked pool=executor")
        assert "give it a factory" in lines[0]
    else:
        assert (answers, lines) == ({5}, []), service.log.read_text()
