"""Pure-Python tasks that keep the interpreter's lock: reports are rendered beside short requests.

Run by `causes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. On SIGUSR1 all
threads of the reports are busy from then on, which takes one core.
"""

from __future__ import annotations

import threading
import time

from prodpool import PoolClosedError, threads
from tools.incidents.source import Requests, arguments, log_to, serve, struck

ANSWERERS, ROWS = 8, 150_000


def render(rows: int) -> int:
    """Render a report in pure Python."""
    return sum(len(f"{row:>8} {row * row % 97:>4} {row % 7}") for row in range(rows))


def main() -> None:
    """Answer requests and render reports until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--rate", type=float, required=True, help="short requests per second")
    parser.add_argument("--renderers", type=int, required=True, help="threads of the reports")
    chosen = parser.parse_args()
    log_to(chosen.log)
    reports = threads(name="reports", max_workers=chosen.renderers, hung_after=chosen.hung_after)
    answers = threads(name="answers", max_workers=ANSWERERS, hung_after=chosen.hung_after)
    over = threading.Event()

    def look_up() -> str:
        time.sleep(0.002)  # the database's share
        return ",".join(map(str, range(100)))

    def customer() -> None:
        """Want one report after the other, and hardly any before that day."""
        try:
            while not over.is_set():
                reports.options(task="render").submit(render, ROWS).result()
                if not struck.is_set():
                    struck.wait(20.0)
        except PoolClosedError:
            return

    customers = [threading.Thread(target=customer, name="customer") for _ in range(chosen.renderers)]
    requests = Requests(chosen.rate, lambda: answers.options(task="look_up").submit(look_up))
    for thread in (*customers, requests):
        thread.start()
    serve()
    over.set()
    struck.set()
    requests.close()
    for thread in (*customers, requests):
        thread.join()
    for pool in (reports, answers):
        pool.stop(deadline=1.0)


if __name__ == "__main__":
    main()
