"""A WSGI application in multiprocess mode: ``/`` runs a task, ``/metrics`` adds up what all workers count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

import prodpool

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

POOL = prodpool.threads(name="orders", max_workers=3)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer when the task is done."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return [generate_latest(registry)]
    return [b"%d" % POOL.submit(abs, -5).result(30)]
