"""A WSGI application that builds its pools at import, as many services do: served by the tests beside it.

``/NAME`` submits a task to the pool of that name, ``/metrics`` shows what this worker counts. The pool that
USED_POOL names is used at import already, by the process that forks the workers.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

import prodpool
from prodpool import InstrumentedPool

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

logging.basicConfig(level=logging.INFO)
POOLS = {
    pool.name: pool
    for pool in (
        InstrumentedPool(ThreadPoolExecutor(2), name="executor"),
        InstrumentedPool(ThreadPoolExecutor, max_workers=2, name="factory"),
        InstrumentedPool(ProcessPoolExecutor(1, mp_context=get_context("spawn")), name="template"),
        prodpool.threads(name="threads", max_workers=2),
        prodpool.processes(name="processes", max_workers=1),
    )
}
if used := os.environ.get("USED_POOL"):
    POOLS[used].submit(abs, -1).result(30)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what the task returned, or with the class of the error that its submission raised."""
    name = environ["PATH_INFO"].strip("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if name == "metrics":
        return [generate_latest()]
    try:
        answer: object = POOLS[name].submit(abs, -5).result(30)
    except Exception as error:  # noqa: BLE001  # the test wants to know
        answer = type(error).__name__
    return [json.dumps([answer, os.getpid()]).encode()]
