"""Incident 4: workers that live for one batch, since each batch of thumbnails gets a pool of its own.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 each
batch gets a pool of its own from then on.
"""

from __future__ import annotations

import time

from prodpool import InstrumentedPool, threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck

POOL = "thumbnails"
WORKERS, PICTURES, DRAWING = 4, 20, 0.02  # pictures in a batch, seconds for each


def draw(number: int) -> int:
    """Draw one thumbnail."""
    time.sleep(DRAWING)
    return number


def main() -> None:
    """Draw batches of thumbnails until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, required=True, help="batches per second")
    chosen = parser.parse_args()
    log_to(chosen.log)

    def pool() -> InstrumentedPool:
        return threads(
            name=POOL,
            max_workers=WORKERS,
            queue_capacity=PICTURES,
            overload="block",
            hung_after=chosen.hung_after,
        )

    shared = pool()

    def batch() -> None:
        if not struck.is_set():
            list(shared.options(task="draw").map(draw, range(PICTURES)))
            return
        shared.stop(deadline=1.0)
        with pool() as own:
            list(own.options(task="draw").map(draw, range(PICTURES)))

    batches = Requests(chosen.rate, batch)
    batches.start()
    serve()
    batches.close()
    batches.join()
    shared.stop(deadline=1.0)


if __name__ == "__main__":
    main()
