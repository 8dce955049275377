"""A semaphore that one way through the code never releases, until every worker waits for it.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 some of
the uploads are empty from then on, and for those the licence that they took is not given back.
"""

from __future__ import annotations

import threading
import time
from itertools import count

from prodpool import threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck


class Scanner:
    """A scanner of uploads, of which so many may run at once by its licence."""

    def __init__(self, licences: int, seconds: float) -> None:
        self._licences = threading.Semaphore(licences)
        self._seconds = seconds

    def scan(self, upload: bytes) -> bool:
        """Scan one upload."""
        self._licences.acquire()
        if not upload:
            return False  # the leak: nothing to scan, and the licence is forgotten
        time.sleep(self._seconds)
        self._licences.release()
        return True


def main() -> None:
    """Scan uploads until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--licences", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="uploads per second")
    parser.add_argument("--seconds", type=float, required=True, help="that a scan takes")
    parser.add_argument("--empty-share", type=int, required=True, help="one in so many is empty once struck")
    chosen = parser.parse_args()
    log_to(chosen.log)
    scanner = Scanner(chosen.licences, chosen.seconds)
    pool = threads(name="scan", max_workers=chosen.workers, hung_after=chosen.hung_after)
    view = pool.options(task="scan")
    numbers = count(1)

    def offer() -> None:
        empty = struck.is_set() and next(numbers) % chosen.empty_share == 0
        view.submit(scanner.scan, b"" if empty else b"an upload")

    uploads = Requests(chosen.rate, offer)
    uploads.start()
    serve()
    uploads.close()
    uploads.join()
    pool.stop(deadline=0.3)


if __name__ == "__main__":
    main()
