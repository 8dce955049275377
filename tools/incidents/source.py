"""Where the records of the incidents come from, and how their programs are watched, struck and ended."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from prometheus_client import Gauge, start_http_server

from prodpool import PoolClosedError, PoolFullError

LOOPBACK = "127.0.0.1"
BACKLOG = "source_records_waiting"
# Set once the incident has begun: the program was sent SIGUSR1.
struck = threading.Event()


class Source:
    """Records that arrive at a rate of their own, whether or not they are taken; for one taker."""

    def __init__(self, rate: float) -> None:
        """Have records arrive from now on, and export how many wait to be taken."""
        self._rate = rate
        self._began = time.monotonic()
        self._taken = 0
        Gauge(BACKLOG, "Records that have arrived and were not taken yet.").set_function(self.waiting)

    def waiting(self) -> int:
        """Return how many have arrived and were not taken."""
        return int((time.monotonic() - self._began) * self._rate) - self._taken

    def take(self) -> None:
        """Take one."""
        self._taken += 1


class Requests(threading.Thread):
    """Calls ``offer`` for each request that comes, until it is closed or the pool is; refused ones are lost.

    ``rate`` is in requests per second. It may be changed meanwhile.
    """

    def __init__(self, rate: float, offer: Callable[[], object]) -> None:
        super().__init__(name="requests")
        self.rate = rate
        self._offer = offer
        self._over = threading.Event()

    def run(self) -> None:
        """Offer what is due, a hundred times a second."""
        due, before = 0.0, time.monotonic()
        try:
            while not self._over.wait(0.01):
                now = time.monotonic()
                due, before = due + (now - before) * self.rate, now
                while due >= 1 and not self._over.is_set():
                    due -= 1
                    try:
                        self._offer()
                    except PoolFullError:
                        continue
        except PoolClosedError:
            return

    def close(self) -> None:
        """Offer nothing more. A call of ``offer`` that waits ends when its pool is stopped."""
        self._over.set()


def arguments(about: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every program of an incident is told."""
    parser = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    parser.add_argument("--log", type=Path, required=True, help="file for the log, one JSON object a line")
    parser.add_argument("--hung-after", type=float, required=True)
    return parser


def log_to(path: Path) -> None:
    """Make structlog append one JSON object per line to a file, each out at once."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.WriteLoggerFactory(path.open("a", buffering=1, encoding="utf-8")),
        cache_logger_on_first_use=True,
    )


def serve(port: int = 0) -> None:
    """Serve the metrics, say where, and return on SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    signal.signal(signal.SIGUSR1, lambda *_: struck.set())
    server, thread = start_http_server(port=port, addr=LOOPBACK)
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    over.wait()
    server.shutdown()
    server.server_close()
    thread.join()
