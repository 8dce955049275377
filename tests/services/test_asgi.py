"""What an ASGI client is told when a pool refuses the work of an application."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from prodpool import PoolClosedError, PoolFullError
from prodpool.integrations.asgi import ASGIRefusals, Message, Receive, Scope, Send
from tests.services.asgi_server import ASGIServer, clients, gunicorn

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]
FULL = PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1)
TOLD = b'{"reason": "full", "retry_after": 3}'
HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"36"),
    (b"retry-after", b"3"),
]
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}
DENIAL: Mapping[str, Any] = {"websocket.http.response": {}}
CLOSED_1013: Message = {"type": "websocket.close", "code": 1013, "reason": TOLD.decode()}


def response(kind: str) -> list[Message]:
    """Return the messages of a 429."""
    return [
        {"type": f"{kind}.start", "status": 429, "headers": HEADERS},
        {"type": f"{kind}.body", "body": TOLD},
    ]


async def receive() -> Message:
    return {"type": "http.request"}


async def serve(
    error: BaseException | None,
    *before: Message,
    scope: str = "http",
    method: str = "GET",
    extensions: Any = None,
) -> list[Message]:
    """Have an application send messages and then raise an error; return what the server gets."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in before:
            await send(message)
        if error is not None:
            raise error

    async def send(message: Message) -> None:
        sent.append(message)

    try:
        await ASGIRefusals(app)({"type": scope, "method": method, "extensions": extensions}, receive, send)
    finally:
        assert sent[: len(before)] == list(before)
    return sent[len(before) :]


async def test_http() -> None:
    """The answer is a 429 with Retry-After; one task group's errors are one answer."""
    assert await serve(FULL) == response("http.response")
    assert await serve(ExceptionGroup("two tasks", [FULL, FULL])) == response("http.response")
    start, _ = await serve(PoolClosedError(pool="orders"))
    assert start["status"] == 503
    assert await serve(None, START) == []
    start, body = response("http.response")
    assert await serve(FULL, method="HEAD") == [start, {**body, "body": b""}]


@pytest.mark.parametrize(
    ("error", "before"),
    [
        (FULL, [START]),
        (ValueError("a bug"), []),
        (ExceptionGroup("one is a bug", [FULL, ValueError("a bug")]), []),
        (KeyboardInterrupt(), []),
    ],
    ids=["begun", "bug", "group", "interrupt"],
)
async def test_http_raised_on(error: BaseException, before: list[Message]) -> None:
    """An answer that has begun is not gone on with, and other errors are the server's to handle."""
    with pytest.raises(type(error)) as raised:
        await serve(error, *before)
    assert raised.value is error


async def test_websocket() -> None:
    """A client that is not accepted yet gets the answer in HTTP where the server can; others a close."""
    assert await serve(FULL, scope="websocket", extensions=DENIAL) == response("websocket.http.response")
    assert await serve(FULL, scope="websocket") == [CLOSED_1013]
    assert await serve(FULL, ACCEPT, scope="websocket", extensions=DENIAL) == [CLOSED_1013]


@pytest.mark.parametrize("before", [[ACCEPT, CLOSE], [CLOSE], response("websocket.http.response")], ids=repr)
async def test_websocket_raised_on(before: list[Message]) -> None:
    """Nothing is sent to a client that the application has done with."""
    with pytest.raises(PoolFullError):
        await serve(FULL, *before, scope="websocket", extensions=DENIAL)


async def test_lifespan() -> None:
    """A refusal in the lifespan is the server's to handle: it does not start."""
    with pytest.raises(PoolFullError):
        await serve(FULL, scope="lifespan")


def handshake(server: ASGIServer, path: str, until_bytes: Callable[[bytes], bool]) -> bytes:
    """Ask for a websocket and return what comes, up to there."""
    headers = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    with server.open(path, *headers, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==") as connection:
        got = b""
        while not until_bytes(got) and (more := connection.recv(4096)):
            got += more
        return got


def test_websocket_on_gunicorn(tmp_path: Path) -> None:
    """A real client is closed with 1013 and told when to come back; before it is accepted it gets a 403."""
    with gunicorn(tmp_path, "asgi") as server, clients(server) as some:
        waiting = some.fill()
        refused = handshake(server, "socket/new", lambda got: b"\r\n\r\n" in got)
        assert refused.startswith(b"HTTP/1.1 403 ")
        _, frame = handshake(server, "socket/accepted", lambda got: got.endswith(b"}")).split(b"\r\n\r\n")
        assert frame[0] == 0x88  # the last frame of a close
        assert int.from_bytes(frame[2:4]) == 1013
        assert json.loads(frame[4:])["reason"] == "full"
        Path(tmp_path, "release").touch()
        assert {each.result().status for each in waiting} == {200}
    assert "Traceback" not in server.log()
