"""Any WSGI application: refused work is answered with 429 or 503."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import TypeAlias
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prodpool.integrations.refusals import Refusal, refusal_of

_Headers: TypeAlias = list[tuple[str, str]]
_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
_Write: TypeAlias = Callable[[bytes], object]


class WSGIRefusals:
    """Middleware that answers with 429 or 503 and ``Retry-After`` where a pool refused the work of a request.

    It answers errors that the application raises while it is called, or while its response is iterated over
    before the first chunk. Later ones are raised again, since a part of the response is sent by then; and so
    is every error that is no refusal.

    Args:
        application: What it wraps. A framework that answers errors by itself, as Django and Flask do, lets
            none of a view through: use the module for that framework. What a generator raises that a view
            has returned, as in a streaming response, does reach this middleware.

    Source: PEP 3333, "Error Handling" and "Middleware Handling of Block Boundaries"
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as the application does, unless its work is refused."""
        start = _DeferredStart(start_response, environ["REQUEST_METHOD"])
        try:
            body = self._application(environ, start)
        except Exception as error:
            refusal = start.refusal_of(error)
            if refusal is None:
                raise
            return [start.refuse(refusal)]
        # A server knows by this class a file that it may send by itself.
        wrapper = environ.get("wsgi.file_wrapper")
        if isinstance(body, list | tuple) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
            # Nothing can fail any more. Only of a list or tuple a server sees the length.
            start.pass_on()
            return body
        return _WatchedBody(body, start)


class _DeferredStart:
    """The ``start_response`` of an application, of which the server is told with the first chunk.

    A response that was started could be replaced by a second call with ``exc_info``. But there are servers
    that then send the headers of both, such as gunicorn 27.
    """

    def __init__(self, start_response: StartResponse, method: str) -> None:
        self._start_response = start_response
        self._method = method
        self._pending: Callable[[], _Write] | None = None
        self._passed_on = False

    def __call__(self, status: str, headers: _Headers, exc_info: _ExcInfo | None = None, /) -> _Write:
        if exc_info is None:
            self.pass_on()  # a response that was started before: the server says what is wrong
            self._pending = partial(self._start_response, status, headers)
        else:
            self._pending = partial(self._start_response, status, headers, exc_info)
            if self._passed_on:
                self.pass_on()
        return self._write

    def pass_on(self) -> None:
        """Start the response that the application has started, if it has."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._passed_on = True
            self._server_write = pending()

    def refusal_of(self, error: Exception) -> Refusal | None:
        """Return the answer to an error; None if it is no refusal, or a response is started already."""
        return None if self._passed_on else refusal_of(error)

    def refuse(self, refusal: Refusal) -> bytes:
        """Start this answer instead of the application's; return its body, which is empty for a HEAD."""
        self._pending = None
        self._passed_on = True
        self._start_response(f"{refusal.status} {HTTPStatus(refusal.status).phrase}", list(refusal.headers))
        return b"" if self._method == "HEAD" else refusal.body

    def _write(self, data: bytes) -> object:
        self.pass_on()
        return self._server_write(data)


class _WatchedBody:
    """A response whose refusal is answered as long as nothing of it is sent."""

    def __init__(self, body: Iterable[bytes], start: _DeferredStart) -> None:
        self._body = body
        self._start = start
        self._chunks: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except StopIteration:
            self._start.pass_on()
            raise
        except Exception as error:
            refusal = self._start.refusal_of(error)
            if refusal is None:
                raise
            self._chunks = iter(())
            return self._start.refuse(refusal)
        self._start.pass_on()
        return chunk

    def close(self) -> None:
        """Close the application's response; a server calls this however the request has ended."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
