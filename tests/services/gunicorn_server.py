"""A real gunicorn, and the pages that it serves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM

import urllib3

from tests.helpers.waiting import PATIENCE, until
from tests.services.service import Service, listening, service
from tests.support import ROOT


class Gunicorn:
    """A gunicorn that was started with `gunicorn`."""

    def __init__(self, served: Service, port: int) -> None:
        self.log = served.log
        self.lines = served.lines
        self.pid = served.process.pid
        self.address = f"127.0.0.1:{port}"
        self._url = f"http://{self.address}"
        self._http = urllib3.PoolManager(maxsize=16, retries=False, timeout=PATIENCE)

    def request(self, path: str = "") -> urllib3.BaseHTTPResponse:
        """Fetch a page over a connection of its own, since gunicorn may give each to another worker."""
        return self._http.request("GET", f"{self._url}/{path}", headers={"Connection": "close"})

    def get(self, path: str = "") -> bytes | None:
        """Fetch a page; None if there is no such page, or its worker was ended meanwhile."""
        try:
            answer = self.request(path)
        except urllib3.exceptions.HTTPError:
            return None
        return answer.data if answer.status == 200 else None

    def reload(self) -> None:
        """Have the workers replaced."""
        os.kill(self.pid, SIGHUP)

    def workers(self) -> list[int]:
        """Return the pids of the workers that are there, the oldest first."""
        began = [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log())]
        return [pid for pid in began if Path(f"/proc/{pid}").exists()]


@contextmanager
def gunicorn(
    folder: Path, application: str, *options: str, workers: int, preload: str = "--preload", **env: str
) -> Iterator[Gunicorn]:
    """Serve an application until the block ends, which must go well.

    It is loaded before the fork, or with ``preload=""`` by each worker, and so anew when that is reloaded.
    """
    with listening() as (number, port):
        command = ["-m", "gunicorn", f"--workers={workers}", "--threads=4", *filter(None, [preload])]
        command += [f"--bind=fd://{number}", "--graceful-timeout=20", f"--pythonpath={ROOT}"]
        command += [*options, f"tests.services.{application}:application"]
        with service(command, folder / "gunicorn.log", env, pass_fds=[number], end=SIGTERM) as served:
            until(lambda: served.log().count("Booting worker") >= workers)
            yield Gunicorn(served, port)
