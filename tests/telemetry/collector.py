"""A receiver of spans as a tracing backend has it: OTLP over HTTP, on loopback."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it arrived; ids are hexadecimal, ``parent`` is empty for a root."""

    service: str
    name: str
    trace: str
    span: str
    parent: str


class Receiver:
    """Keeps what arrives, and lets a test wait for it."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self._changed = threading.Condition()  # guards spans

    def take(self, body: bytes) -> None:
        """Take in one export."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._changed:
            for resource in request.resource_spans:
                of = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
                        self.spans.append(Received(of["service.name"], span.name, *ids))
            self._changed.notify_all()

    def wait_for(self, *names: str, timeout: float = 20.0) -> dict[str, Received]:
        """Return the spans of these names as soon as all have arrived; there must be no other."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.spans) >= len(names), timeout)
            assert sorted(span.name for span in self.spans) == sorted(names)
            return {span.name: span for span in self.spans}


@contextmanager
def receiving() -> Iterator[tuple[Receiver, str]]:
    """Run a receiver; yields it and the address that exporters are to send to."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            receiver.take(gzip.decompress(body) if packed else body)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield receiver, f"http://127.0.0.1:{server.server_port}/v1/traces"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
