"""Any WSGI application: refused work is answered with 429 or 503."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prodpool.integrations.refusals import Refusal, refusal_of


class WSGIRefusals:
    """Middleware that answers with 429 or 503 and ``Retry-After`` where a pool refused the work of a request.

    It answers errors that the application raises while it is called, or while its response is iterated over
    up to the first chunk that is not empty. Later ones are raised again, since the headers are sent by then;
    and so is every error that is no refusal.

    Args:
        application: What it wraps. A framework that answers errors by itself, as Django and Flask do, lets
            none through: use the module for that framework.

    Source: PEP 3333, "Error Handling" and "Buffering and Streaming"
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request as the application does, unless its work is refused."""
        try:
            body = self._application(environ, start_response)
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            return [_answer(refusal, start_response)]
        if isinstance(body, list | tuple):
            # Nothing can fail any more. Only of these a server sees the length.
            return body
        return _WatchedBody(body, start_response)


def _answer(refusal: Refusal, start_response: StartResponse) -> bytes:
    """Start the response anew, while the error is handled; return its body.

    Where the headers are sent already, because the application has called ``write``, the server raises the
    error again.
    """
    status = f"{refusal.status} {HTTPStatus(refusal.status).phrase}"
    start_response(status, list(refusal.headers), sys.exc_info())
    return refusal.body


class _WatchedBody:
    """A response body whose refusals are answered as long as nothing of it is sent."""

    def __init__(self, body: Iterable[bytes], start_response: StartResponse) -> None:
        self._body = body
        self._start_response = start_response
        self._chunks: Iterator[bytes] | None = None
        self._sent = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            if self._chunks is None:
                self._chunks = iter(self._body)
            chunk = next(self._chunks)
        except StopIteration:
            raise
        except Exception as error:
            refusal = None if self._sent else refusal_of(error)
            if refusal is None:
                raise
            chunk = _answer(refusal, self._start_response)
            self._chunks = iter(())
        # A server sends the headers with the first chunk that is not empty.
        self._sent = self._sent or bool(chunk)
        return chunk

    def close(self) -> None:
        """Close the application's response; a server calls this however the request has ended."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
