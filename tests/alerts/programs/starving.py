"""A process whose pool computes in pure Python and keeps files open, until SIGUSR1; then it behaves.

Apart from the other troubles, since no thread of this process runs in time. Prints ``PORT n``, serves
``/metrics`` of that port and ends on SIGTERM.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
import time
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from prometheus_client import start_http_server

import prodpool

LOOPBACK = "127.0.0.1"
# Descriptors that the process may have, and leaks.
ALLOWED, LEAKED = 200, 175
WORKERS = 4
# Seconds: a third of each round is computed, so that a scrape gets through in the rest. The watchdog wakes
# every tenth of `hung_after`, at another pace than that of the rounds.
ROUND, HUNG_AFTER = 0.3, 0.7
# Rounds before it begins, by when the descriptors have been seen.
QUIET_ROUNDS = 20


def computes() -> None:
    """Keep the interpreter's lock, as pure Python code does."""
    ends_at = time.monotonic() + ROUND / 3
    while time.monotonic() < ends_at:
        pass


def main() -> None:
    """Serve until SIGTERM."""
    # As in misbehaving.py.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for wanted in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(wanted, lambda number, _: signals.put(number))
    resource.setrlimit(resource.RLIMIT_NOFILE, (ALLOWED, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    server, thread = start_http_server(port=0, addr=LOOPBACK)
    with (
        prodpool.threads(name="sums", max_workers=WORKERS, hung_after=HUNG_AFTER) as pool,
        ExitStack() as leak,
    ):
        for _ in range(LEAKED):
            leak.enter_context(Path(os.devnull).open())
        sys.stdout.write(f"PORT {server.server_port}\n")
        sys.stdout.flush()
        computing = True
        for number in count():
            with suppress(queue.Empty):
                if signals.get(timeout=ROUND) == signal.SIGTERM:
                    break
                leak.close()
                computing = False
            if computing and number > QUIET_ROUNDS and pool.stats().in_flight == 0:
                for _ in range(WORKERS):
                    pool.submit(computes)
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main()
