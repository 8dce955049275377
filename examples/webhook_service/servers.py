"""A bounded HTTP server that can say when its last request is answered, and how it is told to stop."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RD, socket
from typing import Any

LOOPBACK = "127.0.0.1"
STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_TURNED_AWAY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Type: application/json\r\n"
    b'Content-Length: 24\r\nConnection: close\r\n\r\n{"reason":"connections"}'
)


class BoundedServer(ThreadingHTTPServer):
    """A thread per connection, for at most ``max_connections`` of them; the next one is turned away at once.

    Waiting for a free thread inside the accept loop instead would also make `shutdown` wait.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler], *, max_connections: int) -> None:
        """Listen on loopback.

        Args:
            port: 0 lets the system choose; `server_port` then says which.
            handler: One instance per connection.
            max_connections: Open at the same time, idle ones included.
        """
        super().__init__((LOOPBACK, port), handler)
        self._connections = threading.BoundedSemaphore(max_connections)
        self._idle = threading.Condition()  # guards the two below
        self._answering = 0
        self._open: set[socket] = set()
        self._loop = threading.Thread(
            target=self.serve_forever,
            kwargs={"poll_interval": 0.02},
            name=f"http-{self.server_port}",
            daemon=True,
        )
        self.stopping = False

    def start(self) -> None:
        """Accept connections on a thread of its own."""
        self._loop.start()

    def stop(self, timeout: float) -> bool:
        """Refuse new connections, then wait for the requests being answered.

        Args:
            timeout: Seconds to wait at most; say whether all were answered by then.
        """
        self.stopping = True
        self.shutdown()
        self._accept_rest()
        self.server_close()
        with self._idle:
            return self._idle.wait_for(lambda: self._answering == 0, timeout)

    def _accept_rest(self) -> None:
        # Whoever has connected already waits in the kernel, and would be reset by closing the socket.
        self.socket.settimeout(0.0)
        with suppress(BlockingIOError):
            while True:
                self.process_request(*self.get_request())

    def hang_up(self) -> None:
        """End the connections that are still open, most of them idle ones that a sender keeps."""
        with self._idle:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(SHUT_RD)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Mark one request as being answered, so that `stop` waits for it."""
        with self._idle:
            self._answering += 1
        try:
            yield
        finally:
            with self._idle:
                self._answering -= 1
                self._idle.notify_all()

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Hand the connection to a thread if one may be had."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        if isinstance(request, socket):
            # A fresh connection has room for these few bytes: this cannot block the accept loop.
            request.sendall(_TURNED_AWAY)
        self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Serve one connection to its end and give its place back."""
        connection = request if isinstance(request, socket) else request[1]
        with self._idle:
            self._open.add(connection)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._idle:
                self._open.discard(connection)
            self._connections.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """Say nothing: a peer that went away is no event, and handlers answer their own errors."""


class JsonHandler(BaseHTTPRequestHandler):
    """What both servers share: keep-alive, one write per answer, JSON bodies, no line per request."""

    protocol_version = "HTTP/1.1"
    server_version = "webhook_service"
    sys_version = ""
    # Head and body in two small packets would wait 40 ms for the peer's delayed acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    timeout = 15.0

    def answer(
        self, status: int, body: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> None:
        """Send one JSON answer; end the connection with it when the server is stopping."""
        payload = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if isinstance(self.server, BoundedServer) and self.server.stopping:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(payload)
        # The answer must be out before the request counts as answered.
        self.wfile.flush()

    def read_body(self, limit: int) -> bytes | None:
        """Read the request's body, or answer 400, 411 or 413 and return None.

        Args:
            limit: Bytes; a longer body is refused unread.
        """
        length = self.headers.get("Content-Length")
        if length is None or "Transfer-Encoding" in self.headers:
            self._refuse_body(411, "send the body with a Content-Length")
            return None
        if not (length.isascii() and length.isdigit()):
            self._refuse_body(400, "Content-Length is not a number")
            return None
        if len(length) > 12 or int(length) > limit:
            self._refuse_body(413, f"the body may have {limit} bytes")
            return None
        return self.rfile.read(int(length))

    def _refuse_body(self, status: int, why: str) -> None:
        # The unread body would be taken for the next request.
        self.close_connection = True
        self.answer(status, {"error": why}, {"Connection": "close"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
        """Write no access log: the pool's metrics and events say it better."""


def hold_stop_signals() -> None:
    """Block SIGTERM and SIGINT in this thread and those it starts, for `wait_until_told` to fetch.

    No handler ever interrupts code that holds a lock, and a second signal during the end changes nothing.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def wait_until_told(*, stop_with_stdin: bool) -> signal.Signals:
    """Wait for a stop signal; return it.

    Args:
        stop_with_stdin: Whether the end of stdin counts as SIGTERM. Only a parent that holds the other end of
            a pipe wants that: in a shell's background stdin must not be read.
    """
    if stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, name="stdin", daemon=True).start()
    return signal.Signals(signal.sigwait(STOP_SIGNALS))


def _stop_with_stdin() -> None:
    # Not sys.stdin: a daemon thread that holds its lock is a fatal error at the interpreter's exit.
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
