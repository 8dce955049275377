"""The batch processor of incident 2: it pulls records in batches and has each transformed by calling an API.

Run by `scenes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. At most
``--capacity`` records are queued, and the producer waits for a place.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus

import urllib3

from prodpool import InstrumentedPool, PoolClosedError
from tools.incidents.source import Source, arguments, log_to, serve

RECORD_BYTES = 6000  # of each record; with some 2 KB around it, by the account of the incident


def main() -> None:
    """Transform records until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--api", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="records per second that arrive")
    parser.add_argument("--batch", type=int, required=True, help="records pulled at a time")
    chosen = parser.parse_args()
    log_to(chosen.log)
    http = urllib3.PoolManager(maxsize=chosen.workers, retries=False, timeout=None)
    pool = InstrumentedPool(
        ThreadPoolExecutor(chosen.workers),
        name="transform",
        queue_capacity=chosen.capacity,
        overload="block",
        hung_after=chosen.hung_after,
    )

    def transform(record: bytes) -> int:
        answer = http.request("POST", chosen.api, body=record[:100])
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"the API answers {answer.status}")
        return len(record)

    source = Source(chosen.rate)
    over = threading.Event()

    def pull() -> None:
        while not over.wait(0.05):
            if source.waiting() < chosen.batch:
                continue
            for number in range(chosen.batch):
                try:
                    pool.options(task="transform").submit(transform, bytes([number % 256]) * RECORD_BYTES)
                except PoolClosedError:
                    return
                source.take()

    producer = threading.Thread(target=pull, name="producer")
    producer.start()
    serve()
    over.set()
    pool.stop(deadline=0.5)
    producer.join()
    http.clear()


if __name__ == "__main__":
    main()
