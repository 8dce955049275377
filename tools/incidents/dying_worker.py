"""A task that kills its worker now and then: one picture in a long time crashes the decoder.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 the first
such picture comes, and one every ``--every`` seconds after it.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from prodpool import PoolClosedError, PoolFullError, processes
from tools.incidents.source import Requests, arguments, log_to, serve, struck

WORKERS = 2


def decode(picture: bytes) -> int:
    """Decode a picture. A broken one makes the C library crash."""
    time.sleep(0.02)
    if picture == b"broken":
        os.kill(os.getpid(), signal.SIGKILL)
    return len(picture)


def main() -> None:
    """Decode pictures until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, required=True, help="pictures per second")
    parser.add_argument("--every", type=float, required=True, help="seconds between two broken pictures")
    chosen = parser.parse_args()
    log_to(chosen.log)
    pool = processes(name="decode", max_workers=WORKERS, queue_capacity=100, hung_after=chosen.hung_after)
    view = pool.options(task="decode")
    over = threading.Event()

    def send_broken() -> None:
        struck.wait()
        while not over.is_set():
            try:
                view.submit(decode, b"broken")
            except (PoolFullError, PoolClosedError):
                return
            over.wait(chosen.every)

    broken = threading.Thread(target=send_broken, name="broken")
    pictures = Requests(chosen.rate, lambda: view.submit(decode, b"a picture"))
    for thread in (broken, pictures):
        thread.start()
    serve()
    over.set()
    struck.set()
    pictures.close()
    for thread in (broken, pictures):
        thread.join()
    pool.stop(deadline=1.0)


if __name__ == "__main__":
    main()
