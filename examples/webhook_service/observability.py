"""Where the service's logs, spans and metrics go."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from prometheus_client import CollectorRegistry, make_wsgi_app

from .servers import LOOPBACK

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

    from opentelemetry.sdk.trace import ReadableSpan


def json_logs(stream: TextIO) -> structlog.typing.FilteringBoundLogger:
    """Make structlog write one JSON object per line, each out at once; return a logger."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger("webhook_service")
    return logger


def _one_line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)) + "\n"


def spans_to(path: Path) -> TracerProvider:
    """Return a tracer provider that writes every span as one JSON line."""
    provider = TracerProvider(resource=Resource.create({"service.name": "webhook_service"}))
    # Line-buffered and left open for good: the process ends with the last span.
    out = path.open("a", buffering=1, encoding="utf-8")
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=out, formatter=_one_line)))
    return provider


def close_spans(provider: TracerProvider) -> threading.Thread:
    """Begin to flush and shut down; return the thread to wait for.

    Waiting with a limit is up to the caller, because the SDK does not keep its own.
    """
    flusher = threading.Thread(target=provider.shutdown, name="spans-shutdown", daemon=True)
    flusher.start()
    return flusher


class _OpsHttp(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _QuietHandler(WSGIRequestHandler):
    # A scraper that connects and says nothing must not hold its thread for ever.
    timeout = 2.0

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
        """Write no access log."""


_Scraper = tuple[str, str]


class OpsServer:
    """``/metrics`` (OpenMetrics where asked for), ``/healthz`` and ``/readyz``, on a port of their own.

    It shares nothing with the intake, so that a probe or scrape gets its answer however busy that is.
    """

    def __init__(self, port: int, registry: CollectorRegistry, state: Callable[[], str]) -> None:
        """Listen on loopback.

        Args:
            port: 0 takes any free one.
            registry: What ``/metrics`` shows.
            state: The pool's state, cheap to ask for.
        """
        self._metrics = make_wsgi_app(registry)
        self._state = state
        self._changed = threading.Condition()
        # Who has scraped so far, and who of them is to come for the last time: guarded by _changed.
        self._scrapers: set[_Scraper] = set()
        self._awaited: set[_Scraper] | None = None
        self._server: WSGIServer = make_server(
            LOOPBACK, port, self._answer, server_class=_OpsHttp, handler_class=_QuietHandler
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="ops", daemon=True
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def wait_for_last_scrapes(self, timeout: float) -> bool:
        """Wait for at most ``timeout`` seconds until everybody who scraped before has done so once more.

        What `stop` counted in its last moment would otherwise die unscraped, or be seen by one of two alone.
        """
        with self._changed:
            self._awaited = set(self._scrapers)
            return bool(self._scrapers) and self._changed.wait_for(lambda: not self._awaited, timeout)

    def stop(self) -> None:
        """Stop answering and close the port."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return self._scrape(environ, start_response)
        state = self._state()
        # Alive while draining, but no longer to be sent new work.
        known = {"/healthz": "200 OK", "/readyz": "200 OK" if state == "open" else "503 Service Unavailable"}
        start_response(known.get(str(path), "404 Not Found"), [("Content-Type", "application/json")])
        return [json.dumps({"state": state}).encode()]

    def _scrape(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Two Prometheus of a pair differ in their address, two tools of one host in their name.
        scraper = (str(environ.get("REMOTE_ADDR")), str(environ.get("HTTP_USER_AGENT")))
        with self._changed:
            self._scrapers.add(scraper)
            last = self._awaited is not None
        body: Any = self._metrics(environ, start_response)
        return _Told(body, partial(self._served, scraper)) if last else body

    def _served(self, scraper: _Scraper) -> None:
        with self._changed:
            if self._awaited is not None:
                self._awaited.discard(scraper)
            self._changed.notify_all()


class _Told:
    """A WSGI body that tells when the server has sent it."""

    def __init__(self, body: Iterable[bytes], told: Callable[[], object]) -> None:
        self._body = body
        self._told = told

    def __iter__(self) -> Any:
        yield from self._body

    def close(self) -> None:
        with contextlib.suppress(ValueError):
            self._told()
