"""The customers: one HTTP server whose endpoints behave as told, well or badly.

``POST /hooks/<customer>`` receives a webhook and answers as the customer's behaviour says.
``PUT /control/<customer>`` with ``{"mode": "slow", "seconds": 0.4}`` changes that behaviour from the next
request on.
``GET /control`` tells how many webhooks each customer received, and how many it acknowledged.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from .arguments import port
from .servers import BoundedServer, JsonHandler, hold_stop_signals, wait_until_told

MODES = ("healthy", "slow", "hanging", "failing", "bursting")
MAX_SECONDS = 60.0
_MAX_BODY = 64 * 1024


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a customer's endpoint answers.

    Attributes:
        mode: "healthy", "slow" and "bursting" answer 200 after ``seconds``, "failing" answers 500 after them,
            and "hanging" accepts the request and never answers nor closes. A bursting customer's endpoint is
            sound; what bursts is the number of its events, which `traffic` sends.
        seconds: Time to answer.
    """

    mode: str = "healthy"
    seconds: float = 0.005

    def __post_init__(self) -> None:
        """Refuse what no endpoint does."""
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; it is one of {', '.join(MODES)}")
        if not 0 <= self.seconds <= MAX_SECONDS:
            raise ValueError(f"seconds is {self.seconds!r}; it lies between 0 and {MAX_SECONDS}")


class CustomersServer(BoundedServer):
    """The customers and what they have seen; ``_lock`` guards all three tables."""

    def __init__(self, port: int = 0, *, max_connections: int = 256) -> None:
        """Listen on loopback; every customer is healthy until told otherwise."""
        super().__init__(port, _Endpoint, max_connections=max_connections)
        self._lock = threading.Lock()
        self._behaviours: dict[str, Behaviour] = {}
        self._received: Counter[str] = Counter()
        self._acknowledged: Counter[str] = Counter()

    def behave(self, customer: str, behaviour: Behaviour) -> None:
        """Change how a customer answers the requests that come from now on."""
        with self._lock:
            self._behaviours[customer] = behaviour

    def receive(self, customer: str) -> Behaviour:
        """Count a webhook in and return how to answer it."""
        with self._lock:
            self._received[customer] += 1
            return self._behaviours.get(customer, Behaviour())

    def acknowledge(self, customer: str) -> None:
        """Count a webhook that is answered with 200."""
        with self._lock:
            self._acknowledged[customer] += 1

    def counts(self) -> dict[str, dict[str, int]]:
        """Return ``{"received": {customer: n}, "acknowledged": {customer: n}}``."""
        with self._lock:
            return {"received": dict(self._received), "acknowledged": dict(self._acknowledged)}


class _Endpoint(JsonHandler):
    server: CustomersServer
    _STATUS: ClassVar[dict[str, int]] = {"failing": 500}

    def do_POST(self) -> None:
        customer = self._customer("/hooks/")
        if customer is None or self.read_body(_MAX_BODY) is None:
            return
        behaviour = self.server.receive(customer)
        if behaviour.mode == "hanging":
            self._hang()
            return
        time.sleep(behaviour.seconds)
        status = self._STATUS.get(behaviour.mode, 200)
        if status == 200:
            self.server.acknowledge(customer)
        self.answer(status, {"status": status})

    def do_PUT(self) -> None:
        customer = self._customer("/control/")
        if customer is None or (body := self.read_body(_MAX_BODY)) is None:
            return
        try:
            wanted = json.loads(body)
            self.server.behave(customer, Behaviour(str(wanted["mode"]), float(wanted.get("seconds", 0.005))))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.answer(400, {"error": str(error)})
        else:
            self.answer(200, {"customer": customer, "mode": wanted["mode"]})

    def do_GET(self) -> None:
        if self.path == "/control":
            self.answer(200, self.server.counts())
        else:
            self.answer(404, {"error": "GET knows /control only"})

    def _customer(self, prefix: str) -> str | None:
        name = self.path.removeprefix(prefix)
        if name != self.path and name.isidentifier():
            return name
        self.close_connection = True
        self.answer(404, {"error": f"this method knows {prefix}<customer> only"}, {"Connection": "close"})
        return None

    def _hang(self) -> None:
        # A later change of behaviour does not free it: only the caller's own timeout does, as in the
        # incident.
        while not self.server.stopping and not select.select([self.connection], [], [], 0.2)[0]:
            pass
        self.close_connection = True


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="The customers of the webhook service, on loopback, until SIGTERM or SIGINT."
    )
    add = parser.add_argument
    add("--port", type=port, default=0, help="0 (the default) takes any free one")
    add("--stop-with-stdin", action="store_true", help="also stop when stdin closes (for a parent's sake)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop."""
    options = parse_arguments(argv)
    hold_stop_signals()
    server = CustomersServer(options.port)
    server.start()
    print(json.dumps({"port": server.server_port}), flush=True)
    wait_until_told(stop_with_stdin=options.stop_with_stdin)
    server.stop(0.0)
    server.hang_up()
    return 0


if __name__ == "__main__":
    sys.exit(main())
