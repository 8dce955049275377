"""A deadlock over two pools: orders wait for what the stock pool is to do, and the stock for the orders pool.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 enough
orders and deliveries come at once for all workers of both pools to wait for each other.
"""

from __future__ import annotations

import threading
import time

from prodpool import PoolClosedError, PoolFullError, threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck

WORK = 0.01  # seconds


def main() -> None:
    """Take orders and deliveries until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--workers", type=int, required=True, help="of each pool")
    parser.add_argument("--rate", type=float, required=True, help="orders, and deliveries, per second")
    parser.add_argument("--burst", type=int, required=True, help="orders, and deliveries, at once")
    chosen = parser.parse_args()
    log_to(chosen.log)
    orders, stock = (
        threads(name=name, max_workers=chosen.workers, queue_capacity=10 * chosen.burst,
                hung_after=chosen.hung_after)
        for name in ("orders", "stock")
    )  # fmt: skip

    def place_order() -> None:
        time.sleep(WORK)
        stock.options(task="reserve").submit(time.sleep, WORK).result()

    def take_delivery() -> None:
        time.sleep(WORK)
        orders.options(task="fulfil").submit(time.sleep, WORK).result()

    def both() -> None:
        orders.options(task="place_order").submit(place_order)
        stock.options(task="take_delivery").submit(take_delivery)

    over = threading.Event()

    def burst() -> None:
        struck.wait()
        try:
            for _ in range(0 if over.is_set() else chosen.burst):
                both()
        except (PoolFullError, PoolClosedError):
            return

    busiest = threading.Thread(target=burst, name="burst")
    requests = Requests(chosen.rate, both)
    for thread in (busiest, requests):
        thread.start()
    serve()
    over.set()
    struck.set()
    requests.close()
    for pool in (orders, stock):
        pool.stop(deadline=0.3)
    for thread in (busiest, requests):
        thread.join()


if __name__ == "__main__":
    main()
