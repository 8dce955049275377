"""A WSGI application over `busy_pool` without a framework: served by the tests beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prodpool.integrations.wsgi import WSGIRefusals
from tests.services.busy_pool import submit

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def accept(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Submit a task while the response is iterated over."""
    start_response("202 Accepted", [("Content-Type", "text/plain")])
    submit(environ["PATH_INFO"])
    yield b"accepted"


application = WSGIRefusals(accept)
