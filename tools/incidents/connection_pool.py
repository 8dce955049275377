"""More workers than connections: jobs of 50 workers ask a database through 5 connections.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 each
query takes longer, and the workers wait for a connection.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prodpool import threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck


class Connection:
    """A connection to the database, whose queries take ``seconds``, or ``slow`` ones once struck."""

    def __init__(self, seconds: float, slow: float) -> None:
        self._seconds, self._slow = seconds, slow

    def execute(self, query: str) -> int:
        """Ask the database."""
        time.sleep(self._slow if struck.is_set() else self._seconds)
        return len(query)


class Connections:
    """A driver's pool of connections: so many are open, and who needs one waits for it.

    As many of these it is not fair: a worker that gives a connection back often gets it again for its next
    task, before one that has waited long.
    """

    def __init__(self, connections: list[Connection]) -> None:
        self._idle: queue.Queue[Connection] = queue.Queue()
        for each in connections:
            self._idle.put(each)

    @contextmanager
    def acquire(self) -> Iterator[Connection]:
        """Lend a connection; waits for as long as all are lent."""
        connection = self._idle.get()
        try:
            yield connection
        finally:
            self._idle.put(connection)


def main() -> None:
    """Run jobs until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="jobs per second")
    parser.add_argument("--query", type=float, required=True, help="seconds of a query")
    parser.add_argument("--slow-query", type=float, required=True, help="seconds of a query once struck")
    chosen = parser.parse_args()
    log_to(chosen.log)
    database = Connections([Connection(chosen.query, chosen.slow_query) for _ in range(chosen.connections)])
    pool = threads(name="jobs", max_workers=chosen.workers, hung_after=chosen.hung_after)

    def job() -> int:
        with database.acquire() as connection:
            return connection.execute("SELECT * FROM orders")

    view = pool.options(task="job")
    jobs = Requests(chosen.rate, lambda: view.submit(job))
    jobs.start()
    serve()
    jobs.close()
    jobs.join()
    pool.stop(deadline=0.3)


if __name__ == "__main__":
    main()
