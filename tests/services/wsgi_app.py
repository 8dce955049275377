"""A WSGI application over pools that were built at import: served by the tests beside it.

``/NAME`` submits a task to the pool of that name; with ``?place=FOLDER&count=8`` it answers when eight such
requests are there. ``/metrics`` shows what this worker counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from prometheus_client import generate_latest

from tests.services.pools import answer
from tests.services.service import meet

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what the task returned or raised, and with the process."""
    name = environ["PATH_INFO"].strip("/")
    start_response("200 OK", [("Content-Type", "text/plain")])
    if name == "metrics":
        return [generate_latest()]
    answered = answer(name)
    if query := parse_qs(environ["QUERY_STRING"]):
        meet(query["place"][0], int(query["count"][0]), answered)
    return [json.dumps([answered, os.getpid()]).encode()]
