"""A WSGI application that takes orders: a pool delivers each of them and writes it down, in RECORD.

``/?ORDER`` is answered at once, with what the pool says to it. ``/hang?10`` leaves ten orders and never
answers.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client.multiprocess import mark_process_dead

import prodpool
from prodpool import RejectedError, current_task
from prodpool.integrations.refusals import refusal_of

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Seconds that it takes to deliver one.
TAKES = float(os.environ["TAKES"])
POOL = prodpool.threads(name="orders", max_workers=2, queue_capacity=int(os.environ["ROOM"]))
if os.environ.get("GAUGES_END_AT_EXIT"):
    atexit.register(lambda: mark_process_dead(os.getpid()))  # type: ignore[no-untyped-call]
RECORD = os.open(os.environ["RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def deliver(order: str) -> None:
    """Deliver an order, unless the pool's stop asks for an end before."""
    task = current_task()
    assert task is not None
    if not task.cancelled.wait(TAKES):
        os.write(RECORD, f"{order}\n".encode())


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer before the order is delivered."""
    query = environ["QUERY_STRING"]
    if environ["PATH_INFO"] == "/hang":
        for number in range(int(query)):
            POOL.submit(deliver, f"hang-{number}")
        threading.Event().wait()
    try:
        POOL.submit(deliver, query)
    except RejectedError as error:
        refusal = refusal_of(error)
        assert refusal is not None
        start_response(f"{refusal.status} Refused", list(refusal.headers))
        return [refusal.body]
    start_response("202 Accepted", [("Content-Length", "0")])
    return [b""]
