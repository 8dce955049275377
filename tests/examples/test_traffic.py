from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from examples.webhook_service.servers import BoundedServer, JsonHandler
from examples.webhook_service.traffic import Tally, Traffic

Answer = tuple[int, dict[str, object], dict[str, str]]
ACCEPTED: Answer = (202, {"status": "accepted"}, {})
FULL: Answer = (429, {"reason": "full"}, {"Retry-After": "1"})


class Scripted(BoundedServer):
    """Gives the answers of a script, then goes on accepting; ``_lock`` guards the script and the log."""

    def __init__(self, script: list[Answer], enough: int) -> None:
        super().__init__(0, _Handler, max_connections=64)
        self._lock = threading.Lock()
        self._script = script
        self._enough = enough
        self.received: list[tuple[float, str]] = []
        self.has_enough = threading.Event()

    def next_answer(self, path: str) -> Answer:
        with self._lock:
            self.received.append((time.monotonic(), path))
            if len(self.received) >= self._enough:
                self.has_enough.set()
            return self._script.pop(0) if self._script else ACCEPTED


class _Handler(JsonHandler):
    server: Scripted

    def do_POST(self) -> None:
        self.read_body(1 << 16)
        status, body, headers = self.server.next_answer(self.path)
        self.answer(status, body, headers)


@contextmanager
def playing(script: list[Answer], enough: int, **options: int) -> Iterator[tuple[Scripted, Traffic]]:
    server = Scripted(script, enough)
    server.start()
    traffic = Traffic(f"http://127.0.0.1:{server.server_port}", senders=4, **options)
    traffic.start()
    try:
        yield server, traffic
    finally:
        traffic.stop()
        server.stop(1.0)
        server.hang_up()


def test_it_sends_to_loopback_only() -> None:
    """A load generator pointed at another machine is refused."""
    with pytest.raises(ValueError, match="loopback only"):
        Traffic("http://example.org:80")


def test_a_load_is_spread_over_the_customers() -> None:
    """Webhooks go to the customers in turn, and every answer is counted."""
    with playing([], enough=40) as (server, traffic):
        traffic.load(400.0, ("acme", "globex"))
        assert server.has_enough.wait(10)
        seen = traffic.stop()
    assert seen == Tally(accepted=len(server.received))
    paths = [path for _, path in server.received]
    assert abs(paths.count("/webhooks/acme") - paths.count("/webhooks/globex")) <= 4


def test_a_sender_comes_back_when_told_and_not_before() -> None:
    """A refused webhook of a burst is sent again after Retry-After; one of the steady load is given up."""
    with playing([FULL], enough=2) as (server, traffic):
        traffic.burst("acme", 1, patience=3)
        assert server.has_enough.wait(10)
        seen = traffic.stop()
    assert seen == Tally(accepted=1, refused={"full": 1}, waited=1)
    (first, _), (again, _) = server.received
    assert again - first >= 1.0


def test_patience_ends() -> None:
    """A webhook refused more often than its sender comes back is given up, and counted so."""
    with playing([FULL, FULL], enough=2) as (server, traffic):
        traffic.burst("acme", 1, patience=1)
        assert server.has_enough.wait(10)
        seen = traffic.stop()
    assert seen == Tally(refused={"full": 2}, waited=1, exhausted=1)


def test_requests_are_bounded() -> None:
    """After its budget the generator sends nothing more, whatever the load."""
    with playing([], enough=25, max_requests=25) as (server, traffic):
        traffic.burst("acme", 100, patience=0)
        assert server.has_enough.wait(10)
        assert traffic.stop().accepted == 25
    assert len(server.received) == 25


def test_being_turned_away_before_the_pool_is_not_offered() -> None:
    """A refusal by the socket's bound, or no connection at all, is missed and not offered."""
    turned_away: Answer = (503, {"reason": "connections"}, {"Retry-After": "1"})
    with playing([turned_away], enough=1) as (server, traffic):
        traffic.burst("acme", 1, patience=3)
        assert server.has_enough.wait(10)
        seen = traffic.stop()
    assert (seen.missed, seen.offered) == (1, 0)
    nobody = Traffic(f"http://127.0.0.1:{server.server_port}", senders=1)
    nobody.start()
    nobody.burst("acme", 1, patience=0)
    deadline = time.monotonic() + 10
    while nobody.tally() == Tally() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert nobody.stop() == Tally(missed=1)
