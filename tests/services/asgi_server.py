"""Real ASGI servers that serve `fastapi_app`, and clients of theirs."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple

import urllib3

from tests.helpers.waiting import PATIENCE, until
from tests.services.service import Service, listening, service
from tests.support import ROOT

APPLICATION = "tests.services.fastapi_app:app"
# The tasks that its pool `orders` holds.
CAPACITY = 6


class Answer(NamedTuple):
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes


class ASGIServer:
    """A server that was started with `uvicorn` or `gunicorn`."""

    def __init__(self, served: Service, port: int) -> None:
        self.process = served.process
        self.log = served.log
        self.until_logged = served.until_logged
        self.port = port
        self._http = urllib3.PoolManager(maxsize=32, retries=False, timeout=PATIENCE)

    def get(self, path: str) -> Answer:
        """Fetch a page over a connection of its own."""
        url = f"http://127.0.0.1:{self.port}/{path}"
        answer = self._http.request("GET", url, headers={"Connection": "close"})
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Answer(answer.status, headers, answer.data)

    def json(self, path: str) -> Any:
        """Fetch a page of JSON."""
        return json.loads(self.get(path).body)

    def open(self, path: str, *headers: str) -> socket.socket:
        """Send a request and return the connection, unread."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        lines = [f"GET /{path} HTTP/1.1", "Host: localhost", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection


@contextmanager
def uvicorn(folder: Path, end: signal.Signals = SIGTERM) -> Iterator[ASGIServer]:
    """Serve the application until the block ends, and then end the server by a signal.

    When uvicorn has shut down because of a signal, it sends itself that signal anew. It dies of SIGTERM, and
    has a handler for the KeyboardInterrupt of SIGINT.
    """
    with listening() as (number, port):
        command = ["-W", "error", "-m", "uvicorn", f"--fd={number}", APPLICATION]
        status = -end if end is SIGTERM else 0
        env = {"FOLDER": str(folder), "TMPDIR": str(temporary_folder(folder))}
        with service(command, folder / "uvicorn.log", env, [number], end, status) as served:
            served.until_logged("Uvicorn running on")
            yield ASGIServer(served, port)


def temporary_folder(folder: Path) -> Path:
    """Return the folder for the temporary files of a server."""
    temporary = folder / "temporary"
    temporary.mkdir(exist_ok=True)
    return temporary


@contextmanager
def gunicorn(folder: Path, worker: str) -> Iterator[ASGIServer]:
    """Serve the application with one worker of that class until the block ends, which must go well."""
    with listening() as (number, port):
        command = ["-m", "gunicorn", "--workers=1", f"--worker-class={worker}", f"--bind=fd://{number}"]
        command += [
            "--graceful-timeout=20",
            "--asgi-disconnect-grace-period=1",
            f"--pythonpath={ROOT}",
            APPLICATION,
        ]
        env = {"FOLDER": str(folder)}
        with service(command, folder / "gunicorn.log", env, [number], SIGTERM) as served:
            served.until_logged("Booting worker")
            yield ASGIServer(served, port)


def in_flight(server: ASGIServer) -> int:
    """Count the tasks in the pool `orders`."""
    stats = server.json("stats")
    return int(stats["queued"] + stats["running"])


class Clients:
    """Clients of a server whose answers can be asked for."""

    def __init__(self, server: ASGIServer, threads: ThreadPoolExecutor) -> None:
        self._server = server
        self._threads = threads

    def start(self, path: str) -> Future[Answer]:
        """Send a request."""
        return self._threads.submit(self._server.get, path)

    def fill(self) -> list[Future[Answer]]:
        """Send as many requests as the pool can hold; return when it holds them."""
        waiting = [self.start(f"wait/held{number}") for number in range(CAPACITY)]
        until(lambda: in_flight(self._server) == CAPACITY)
        return waiting


@contextmanager
def clients(server: ASGIServer) -> Iterator[Clients]:
    """Have sixteen clients."""
    with ThreadPoolExecutor(16) as threads:
        yield Clients(server, threads)
