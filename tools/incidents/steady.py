"""A service at its daily work, which no alert may speak of: with a burst, a night's batch or a deployment.

Run by `calm_cases`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 comes
what was asked for: a burst of three times the load, or a batch of long tasks.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import repeat

from prodpool import PoolClosedError, WorkerLostError, threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck

POOL, BATCH = "mail", "archive"
ARCHIVERS = 4
# Accounts that the pool has at a time: less than half of its queue is taken.
AHEAD = 6
BURST = 3  # times the load


def main() -> None:
    """Send mail until SIGTERM, and drain then."""
    parser = arguments(__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the metrics; 0 for any free one")
    parser.add_argument("--rate", type=float, required=True, help="mails per second")
    parser.add_argument("--seconds", type=float, required=True, help="that a mail takes")
    parser.add_argument("--burst", type=float, default=0.0, help="seconds of three times the load")
    parser.add_argument("--batch", type=float, default=0.0, help="seconds of each task of a batch")
    chosen = parser.parse_args()
    log_to(chosen.log)
    workers = math.ceil(2 * chosen.rate * chosen.seconds)
    # A burst leaves the load of half its length behind.
    places = max(100, math.ceil(1.2 * chosen.burst * chosen.rate))
    pool = threads(name=POOL, max_workers=workers, queue_capacity=places, hung_after=chosen.hung_after)
    view = pool.options(task="send")
    mails = Requests(chosen.rate, lambda: view.submit(time.sleep, chosen.seconds))
    batch = Batch(chosen.batch, chosen.hung_after) if chosen.batch else None
    over = threading.Event()

    def on_strike() -> None:
        struck.wait()
        if over.is_set():
            return
        if batch is not None:
            batch.archive_all()
        mails.rate *= BURST if chosen.burst else 1
        over.wait(chosen.burst)
        mails.rate /= BURST if chosen.burst else 1

    special = threading.Thread(target=on_strike, name="special")
    for thread in (special, mails):
        thread.start()
    serve(chosen.port)
    over.set()
    struck.set()
    # Mails come on for a moment while a process is being replaced.
    pool.stop(deadline=10.0)
    mails.close()
    if batch is not None:
        batch.close()
    for thread in (special, mails):
        thread.join()


class Batch:
    """The night's batch: archives one account after the other, and hands a few to the pool ahead of time."""

    def __init__(self, seconds: float, hung_after: float) -> None:
        # Long tasks are what it is for, so its bound for hung ones is not that of the mails.
        self._pool = threads(name=BATCH, max_workers=ARCHIVERS, hung_after=max(hung_after, 30 * seconds))
        self._seconds = seconds

    def archive_all(self) -> None:
        """Archive account after account until it is closed."""
        archived = self._pool.options(task="archive").map(time.sleep, repeat(self._seconds), buffersize=AHEAD)
        with suppress(PoolClosedError, WorkerLostError, CancelledError):
            for _ in archived:
                pass

    def close(self) -> None:
        """Give up what waits."""
        self._pool.stop(deadline=0.3)


if __name__ == "__main__":
    main()
