"""Refused work as an answer of any ASGI application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prodpool.integrations.refusals import Refusal, refusal_of

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# "Try again later", in IANA's registry of WebSocket close codes.
TRY_AGAIN_LATER = 1013


class ASGIRefusals:
    """Answers a request with 429 or 503 where the application raises what a pool refused its work with.

    An HTTP response that has begun cannot be changed any more: then the error is raised on to the server. So
    is every error that is no refusal. A websocket that was accepted is closed with 1013, "try again later".
    One that was not gets the answer in HTTP, if the server can send one (the ASGI extension
    ``websocket.http.response``); else it is closed, which the server tells the client as a 403.

    Args:
        app: The ASGI application.

    Source: asgi.readthedocs.io/en/latest/specs/www.html, .../extensions.html#websocket-denial-response
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        sent: set[str] = set()

        async def note_and_send(message: Message) -> None:
            sent.add(message["type"])
            await send(message)

        try:
            await self._app(scope, receive, note_and_send)
        except Exception as error:
            refusal = refusal_of(error)
            answer = [] if refusal is None else _answer(refusal, scope, sent)
            if not answer:
                raise
            for message in answer:
                await send(message)


def _answer(refusal: Refusal, scope: Scope, sent: set[str]) -> list[Message]:
    """Return the messages to send after those of the types ``sent``; none where it is too late."""
    if scope["type"] == "http":
        if scope.get("method") == "HEAD":
            refusal = refusal._replace(body=b"")  # its length stays, as for a GET
        return [] if "http.response.start" in sent else _response("http.response", refusal)
    if sent & {"websocket.close", "websocket.http.response.start"}:
        return []
    if "websocket.accept" not in sent and "websocket.http.response" in (scope.get("extensions") or {}):
        return _response("websocket.http.response", refusal)
    return [{"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": refusal.body.decode()}]


def _response(kind: str, refusal: Refusal) -> list[Message]:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers]
    return [
        {"type": f"{kind}.start", "status": refusal.status, "headers": headers},
        {"type": f"{kind}.body", "body": refusal.body},
    ]
