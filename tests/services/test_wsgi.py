"""Refused work in WSGI applications without a framework."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from prodpool import PoolClosedError, PoolFullError
from prodpool.integrations.wsgi import WSGIRefusals
from tests.services.busy_clients import check_under_gunicorn

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

pytestmark = [pytest.mark.once, pytest.mark.timeout(180)]

FULL = PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1)


def sent_or_raised(part: bytes | Exception) -> bytes:
    if isinstance(part, Exception):
        raise part
    return part


class Body:
    """A response of which each part is sent, or raised, and that knows whether it was closed.

    Unlike a generator it goes on after an error, if it is asked to.
    """

    def __init__(self, *parts: bytes | Exception) -> None:
        self._parts = parts
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return map(sent_or_raised, self._parts)

    def close(self) -> None:
        self.closed += 1


class Handler(SimpleHandler):
    """The standard library's server side of one request, which keeps an error instead of answering it."""

    error: BaseException | None = None

    def log_exception(self, _exc_info: object) -> None:
        self.error = sys.exception()

    def error_output(self, _environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("500 Internal Server Error", [], sys.exc_info())
        return []


def served(application: WSGIApplication, method: str = "GET") -> tuple[str, bytes, BaseException | None]:
    """Serve one request, with both sides held to PEP 3333; return what is sent, and what was not answered."""
    environ: WSGIEnvironment = {}
    setup_testing_defaults(environ)
    environ.update(QUERY_STRING="", REQUEST_METHOD=method)
    sent = io.BytesIO()
    base = {key: str(value) for key, value in environ.items() if not key.startswith("wsgi.")}
    handler = Handler(io.BytesIO(), sent, io.StringIO(), base)
    handler.run(validator(WSGIRefusals(validator(application))))
    head, _, body = sent.getvalue().partition(b"\r\n\r\n")
    return head.decode(), body, handler.error


def answering(body: Iterable[bytes], before: Callable[[StartResponse], object]) -> WSGIApplication:
    """Return an application whose response is ``body``, after ``before``."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        before(start_response)
        return body

    return application


def start(start_response: StartResponse) -> Callable[[bytes], object]:
    return start_response("202 Accepted", [("Content-Type", "text/plain"), ("X-Its", "own")])


def refuse(start_response: StartResponse) -> None:
    raise FULL


def start_and_refuse(start_response: StartResponse) -> None:
    start(start_response)
    raise FULL


def write_and_refuse(start_response: StartResponse) -> None:
    start(start_response)(b"a")
    raise FULL


def check_refused(head: str, body: bytes) -> None:
    """Assert that the client is told to come back, and nothing of the application's own response."""
    assert head.startswith("HTTP/1.0 429 Too Many Requests\r\n")
    assert "Retry-After: 3" in head
    assert f"Content-Length: {len(body)}" in head
    assert "X-Its" not in head
    assert json.loads(body) == {"reason": "full", "retry_after": 3}


@pytest.mark.parametrize("before", [refuse, start_and_refuse])
def test_refused_when_called(before: Callable[[StartResponse], object]) -> None:
    """An application that raises a refusal answers with it, though it may have started a response."""
    head, body, error = served(answering([], before))
    check_refused(head, body)
    assert error is None


def test_refused_before_the_first_chunk() -> None:
    """A response that raises before anything of it is sent is replaced, and closed once."""
    response = Body(FULL, b"never sent")
    head, body, error = served(answering(response, start))
    check_refused(head, body)
    assert (error, response.closed) == (None, 1)


@pytest.mark.parametrize(("body", "before"), [([], refuse), (Body(FULL), start)], ids=["called", "iterated"])
def test_refused_head(body: Iterable[bytes], before: Callable[[StartResponse], object]) -> None:
    """A HEAD is answered with the same headers and no body."""
    head, sent, error = served(answering(body, before), "HEAD")
    assert head.startswith("HTTP/1.0 429 Too Many Requests\r\n")
    assert "Content-Length: 36" in head
    assert (sent, error) == (b"", None)


@pytest.mark.parametrize(
    ("body", "before"),
    [(Body(b"a", FULL), start), (Body(), write_and_refuse)],
    ids=["after a chunk", "after write"],
)
def test_refused_too_late(body: Body, before: Callable[[StartResponse], object]) -> None:
    """What is sent stays sent: the server gets the error."""
    head, sent, error = served(answering(body, before))
    assert head.startswith("HTTP/1.0 202 Accepted")
    assert (sent, error) == (b"a", FULL)


def test_other_errors() -> None:
    """An error that is no refusal is left to the server, and the response is closed all the same."""
    bug = ValueError("a bug")
    response = Body(bug)
    head, _, error = served(answering(response, start))
    assert head.startswith("HTTP/1.0 500")
    assert (error, response.closed) == (bug, 1)


@pytest.mark.parametrize("body", [Body(), Body(b"ab"), Body(b"", b"a", b"b")], ids=["none", "one", "three"])
def test_nothing_refused(body: Body) -> None:
    """A response goes through as it is, and is closed once."""
    before = body.closed
    head, sent, error = served(answering(body, start))
    assert "X-Its: own" in head
    assert (sent, error) == (b"".join(body), None)
    assert body.closed == before + 1


@pytest.mark.parametrize(
    "body", [[b"a", b"b"], (b"ab",), FileWrapper(io.BytesIO(b"ab"))], ids=["list", "tuple", "file"]
)
def test_a_response_of_known_length(body: Iterable[bytes]) -> None:
    """A list or a file is handed to the server itself, which knows its length or may send it by itself."""
    started: list[str] = []

    def start_response(status: str, *_: object) -> Callable[[bytes], object]:
        started.append(status)
        return lambda _: None

    environ = {"REQUEST_METHOD": "GET", "wsgi.file_wrapper": FileWrapper}
    assert WSGIRefusals(answering(body, start))(environ, start_response) is body
    assert started == ["202 Accepted"]


def test_started_twice() -> None:
    """An application may replace the response that it has started, as long as nothing of it is sent."""

    def replace(start_response: StartResponse) -> None:
        start(start_response)
        try:
            int("not a number")
        except ValueError:
            start_response("400 Bad Request", [("Content-Type", "text/plain")], sys.exc_info())

    head, sent, error = served(answering(Body(b"a"), replace))
    assert head.startswith("HTTP/1.0 400")
    assert "X-Its" not in head
    assert (sent, error) == (b"a", None)


def test_a_response_that_nobody_iterates_over() -> None:
    """A server that has no use for a response, as for a client that is gone, closes it nevertheless."""
    response = Body(PoolClosedError(pool="orders"))
    wrapped: Any = WSGIRefusals(answering(response, start))(
        {"REQUEST_METHOD": "GET"}, lambda *_: lambda _: None
    )
    wrapped.close()
    assert response.closed == 1


@pytest.mark.parametrize("options", [(), ("--threads=1",)], ids=["gthread", "sync"])
def test_under_gunicorn(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Clients of a real server get 202 and 429 and nothing else; what was accepted is done when it ends."""
    check_under_gunicorn(tmp_path, "refusing_app", *options)
