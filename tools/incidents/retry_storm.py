"""A retry storm: clients offer what was refused again at once, and so they do with what takes too long.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 a burst
fills the queue. From then on each task waits longer than its client, so the queue stays full for ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck


class Clients:
    """At most ``number`` requests at once, each of which is offered again until it is answered in time."""

    def __init__(self, pool: InstrumentedPool, number: int, seconds: float, timeout: float) -> None:
        self._pool = pool.options(task="checkout")
        self._free = number
        self._seconds, self._timeout = seconds, timeout
        self._again = 0.18  # the way there and back
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="clients")
        self._thread.start()

    def request(self) -> None:
        """Have a client want something; with no client free it is lost."""
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if self._free > 0:
            self._free -= 1
            asyncio.ensure_future(self._insist(), loop=self._loop)  # noqa: RUF006  # ends by itself

    async def _insist(self) -> None:
        try:
            while True:
                try:
                    answer = self._pool.submit(time.sleep, self._seconds)
                except PoolFullError:
                    await asyncio.sleep(self._again)
                    continue
                # What takes too long stays in the queue: the service is not told that nobody waits any more.
                done, _ = await asyncio.wait([asyncio.wrap_future(answer)], timeout=self._timeout)
                if done:
                    return
        except PoolClosedError:
            return
        finally:
            self._free += 1

    def close(self) -> None:
        """End, once the pool was stopped."""
        asyncio.run_coroutine_threadsafe(self._all_ended(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _all_ended(self) -> None:
        rest = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


def main() -> None:
    """Serve clients until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="new requests per second")
    parser.add_argument("--seconds", type=float, required=True, help="that one takes")
    parser.add_argument("--clients", type=int, required=True, help="that there are at most at once")
    parser.add_argument("--client-timeout", type=float, required=True)
    parser.add_argument("--burst", type=int, required=True, help="requests that come at once")
    chosen = parser.parse_args()
    log_to(chosen.log)
    pool = threads(
        name="checkout",
        max_workers=chosen.workers,
        queue_capacity=chosen.capacity,
        hung_after=chosen.hung_after,
    )
    clients = Clients(pool, chosen.clients, chosen.seconds, chosen.client_timeout)

    def burst() -> None:
        struck.wait()
        with suppress(PoolFullError, PoolClosedError):
            for _ in range(chosen.burst):
                pool.options(task="checkout").submit(time.sleep, chosen.seconds)

    busiest = threading.Thread(target=burst, name="burst")
    requests = Requests(chosen.rate, clients.request)
    for thread in (busiest, requests):
        thread.start()
    serve()
    requests.close()
    pool.stop(deadline=3.0)  # as long as what is queued takes
    struck.set()
    for thread in (busiest, requests):
        thread.join()
    clients.close()


if __name__ == "__main__":
    main()
