"""The pipeline of incident 3: three pools, each of whose tasks hands its result to the next one.

Run by `scenes`; prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. The queue of the
second pool stands for the channel between the first two stages: a stage waits for a place in the next one.
"""

from __future__ import annotations

import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import IO, Any

import urllib3

from prodpool import InstrumentedPool, PoolClosedError
from tools.incidents.source import Source, arguments, log_to, serve

PARSERS, ENRICHERS, WRITERS = 4, 8, 16
_RECORD = json.dumps({"event": "order.paid", "id": "evt_0001", "amount": 4200})


class Pipeline:
    """The three stages; a record goes through `parse`, `enrich` and `write`."""

    def __init__(self, api: str, capacity: int, hung_after: float, file: IO[str]) -> None:
        self._api = api
        self._file = file
        self._http = urllib3.PoolManager(maxsize=ENRICHERS, retries=False, timeout=None)

        def stage(name: str, workers: int, places: int | None = None) -> InstrumentedPool:
            return InstrumentedPool(
                ThreadPoolExecutor(workers),
                name=name,
                queue_capacity=places,
                overload="block",
                hung_after=hung_after,
            )

        self.parsing = stage("parse", PARSERS)
        self._enriching = stage("enrich", ENRICHERS, capacity)
        self._writing = stage("write", WRITERS)

    def parse(self, text: str) -> None:
        """Read a record, and wait until the next stage takes it."""
        self._enriching.options(task="enrich").submit(self.enrich, json.loads(text))

    def enrich(self, record: dict[str, Any]) -> None:
        """Ask the third party about a record."""
        answer = self._http.request("POST", self._api, json=record)
        if answer.status != HTTPStatus.OK:
            raise RuntimeError(f"the third party answers {answer.status}")
        self._writing.options(task="write").submit(self.write, {**record, "enriched": True})

    def write(self, record: dict[str, Any]) -> None:
        """Store a record."""
        self._file.write(json.dumps(record) + "\n")

    def stop(self) -> None:
        """Stop from the first stage to the last; what waits is given up."""
        for pool in (self.parsing, self._enriching, self._writing):
            pool.stop(deadline=0.3)
        self._http.clear()


def main() -> None:
    """Process records until SIGTERM."""
    parser = arguments(__doc__)
    parser.add_argument("--api", required=True)
    parser.add_argument("--capacity", type=int, required=True, help="of the channel to the second stage")
    parser.add_argument("--rate", type=float, required=True, help="records per second that arrive")
    chosen = parser.parse_args()
    log_to(chosen.log)
    source = Source(chosen.rate)
    over = threading.Event()
    with tempfile.TemporaryFile("w", encoding="utf-8") as file:
        pipeline = Pipeline(chosen.api, chosen.capacity, chosen.hung_after, file)

        def read() -> None:
            while not over.wait(0.01):
                for _ in range(source.waiting()):
                    try:
                        pipeline.parsing.options(task="parse").submit(pipeline.parse, _RECORD)
                    except PoolClosedError:
                        return
                    source.take()

        reader = threading.Thread(target=read, name="reader")
        reader.start()
        serve()
        over.set()
        pipeline.stop()
        reader.join()


if __name__ == "__main__":
    main()
