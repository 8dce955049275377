"""The slow index: indexing a document calls one more service, and nobody makes the pool larger.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 the
feature that calls the other service is switched on.
"""

from __future__ import annotations

import time

from prodpool import threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck


def main() -> None:
    """Index documents until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="documents per second")
    parser.add_argument("--indexing", type=float, required=True, help="seconds that indexing takes")
    parser.add_argument("--entities", type=float, required=True, help="seconds of the call that is added")
    chosen = parser.parse_args()
    log_to(chosen.log)
    pool = threads(
        name="index",
        max_workers=chosen.workers,
        queue_capacity=chosen.capacity,
        overload="block",
        hung_after=chosen.hung_after,
    )

    def extract_entities() -> None:
        time.sleep(chosen.entities)

    def index(text: str) -> int:
        if struck.is_set():
            extract_entities()
        time.sleep(chosen.indexing)
        return len(text)

    view = pool.options(task="index")
    documents = Requests(chosen.rate, lambda: view.submit(index, "a document"))
    documents.start()
    serve()
    documents.close()
    pool.stop(deadline=0.3)
    documents.join()


if __name__ == "__main__":
    main()
