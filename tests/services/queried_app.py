"""A WSGI application in multiprocess mode, for what asks about its pools: each path does one thing to them.

| path       | what this worker does                                                              |
|------------|------------------------------------------------------------------------------------|
| `/metrics` | answers for all workers                                                            |
| `/touch`   | runs a task in each pool                                                           |
| `/orders`  | submits more than there is room for: tasks are slow, fail, panic, expire, refused |
| `/hang`    | has a task of `orders` hang, if no worker has done so yet                          |
| `/trip`    | opens the breaker of `payments`, if no worker has done so yet                      |
| `/stop`    | stops `imports` with tasks queued, if no worker has done so yet                    |

All but the first answer with this worker's pid and with what came of each task: the pool, and the result with
which it ended, the reason for which it never ran, or `running`.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

import prodpool
from prodpool import BreakerPolicy, RejectedError
from tests.helpers.waiting import PATIENCE

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Outcome = tuple[str, str]
WORKERS, CAPACITY = 2, 4
FAILURES = 3
# Seconds, of tasks.
BRIEF, SLOW = 0.02, 0.15

ORDERS = prodpool.threads(
    name="orders",
    max_workers=WORKERS,
    queue_capacity=CAPACITY,
    slow_after=0.1,
    task_metrics=("sleep",),
    hung_after=1.0,
    drain_deadline=1.0,
)
PAYMENTS = prodpool.threads(
    name="payments",
    max_workers=1,
    queue_capacity=CAPACITY,
    breaker=BreakerPolicy(consecutive_failures=FAILURES, open_for=600.0),
)
IMPORTS = prodpool.threads(name="imports", max_workers=1, queue_capacity=CAPACITY)


def panic() -> NoReturn:
    """End as a task does whose library calls `sys.exit`."""
    raise SystemExit("meant")


def fail() -> NoReturn:
    """End as a task does whose dependency is down."""
    raise ConnectionError("meant")


def ended(pool: str, future: Future[Any]) -> Outcome:
    """Wait for a task, and return what came of it."""
    try:
        error = future.exception(PATIENCE)
    except CancelledError:  # which nobody does here, save the stop
        return pool, "shutdown"
    if isinstance(error, RejectedError):
        return pool, str(error.reason)
    if isinstance(error, prodpool.TaskExpiredError):
        return pool, "expired"
    if error is None:
        return pool, "ok"
    return pool, "error" if isinstance(error, Exception) else "panic"


class Batch:
    """Tasks of one request."""

    def __init__(self, pool: prodpool.InstrumentedPool) -> None:
        self._pool = pool
        self._futures: list[Future[Any]] = []
        self._refused: list[Outcome] = []

    def submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> None:
        """Submit a task, which may be refused."""
        try:
            self._futures.append(self._pool.options(**options).submit(fn, *args))
        except RejectedError as error:
            self._refused.append((self._pool.name, str(error.reason)))

    def outcomes(self) -> list[Outcome]:
        """Wait for all of them."""
        return self._refused + [ended(self._pool.name, future) for future in self._futures]


def touch() -> list[Outcome]:
    found = []
    for pool in (ORDERS, PAYMENTS, IMPORTS):
        batch = Batch(pool)
        batch.submit(int)
        found += batch.outcomes()
    return found


def orders() -> list[Outcome]:
    batch = Batch(ORDERS)
    # The only one that waits for a slot; long enough to be sure of one.
    batch.submit(time.sleep, SLOW, wait=PATIENCE)
    for number in range(2):
        batch.submit(time.sleep, BRIEF)
        batch.submit(time.sleep, BRIEF, deadline=1e-6)
        batch.submit(fail)
        batch.submit(panic)
        batch.submit(time.sleep, BRIEF * number)
    return batch.outcomes()


def hang() -> list[Outcome]:
    ORDERS.submit_wait(threading.Event().wait)
    return [(ORDERS.name, "running")]


def trip() -> list[Outcome]:
    batch = Batch(PAYMENTS)
    found = []
    for _ in range(FAILURES + 2):
        batch.submit(fail)
        found = batch.outcomes()
    return found


def stop() -> list[Outcome]:
    batch, let_go = Batch(IMPORTS), threading.Event()
    IMPORTS.submit_wait(let_go.wait)
    for _ in range(CAPACITY):
        batch.submit(int)
    IMPORTS.stop(0.0)
    let_go.set()
    batch.submit(int)
    # The first is abandoned, which its future says; it ends, which the pool counts.
    return [(IMPORTS.name, "ok"), *batch.outcomes()]


def once(name: str) -> bool:
    """Tell whether this worker is the first of all to be asked for that."""
    try:
        Path(os.environ["CLAIMS"], name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


ACTIONS = {"touch": touch, "orders": orders}
ONCE = {"hang": hang, "trip": trip, "stop": stop}


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer when all that the path stands for is done."""
    name = environ["PATH_INFO"].strip("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if name == "metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return [generate_latest(registry)]
    outcomes = ACTIONS[name]() if name in ACTIONS else ONCE[name]() if once(name) else []
    return [json.dumps({"pid": os.getpid(), "outcomes": outcomes}).encode()]
