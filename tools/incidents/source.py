"""Where the records of the incidents come from, and how their programs are watched and ended."""

from __future__ import annotations

import signal
import sys
import threading
import time

from prometheus_client import Gauge, start_http_server

LOOPBACK = "127.0.0.1"
BACKLOG = "source_records_waiting"


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


def serve() -> None:
    """Serve the metrics, say where, and return on SIGTERM."""
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    server, thread = start_http_server(port=0, addr=LOOPBACK)
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    over.wait()
    server.shutdown()
    server.server_close()
    thread.join()
