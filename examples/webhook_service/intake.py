"""HTTP in: a webhook becomes a task, and a refusal by the pool becomes a status the sender can act on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prodpool import BreakerOpenError, InstrumentedPool, PoolClosedError, RejectedError

from .servers import BoundedServer, JsonHandler

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from .delivery import Deliverer

MAX_BODY = 64 * 1024


def refusal(error: RejectedError) -> tuple[int, dict[str, str], dict[str, object]]:
    """Turn the pool's refusal into an HTTP answer: status, headers, body.

    429 tells the sender that it sends too much, 503 that nobody's webhooks are
    taken right now (breaker open, pool closed). Both say when to come back.

    Source: RFC 6585 section 4, RFC 9110 sections 15.6.4 and 10.2.3 (whole seconds).
    """
    status = 503 if isinstance(error, BreakerOpenError | PoolClosedError) else 429
    wait = max(1, math.ceil(error.retry_after or 0.0))
    return status, {"Retry-After": str(wait)}, {"reason": error.reason.value, "retry_after": wait}


class IntakeServer(BoundedServer):
    """Takes ``POST /webhooks/<customer>``; answers 202 once the pool has admitted the delivery."""

    def __init__(
        self,
        port: int,
        pool: InstrumentedPool,
        deliverer: Deliverer,
        tracer: Tracer,
        *,
        max_connections: int = 128,
    ) -> None:
        """Listen on loopback.

        Args:
            port: 0 takes any free one.
            pool: Where deliveries are submitted.
            deliverer: Knows the customers.
            tracer: Makes the span a delivery's own spans hang under.
            max_connections: Open at the same time; beyond them a sender is turned away at the socket.
        """
        super().__init__(port, _Intake, max_connections=max_connections)
        self.deliverer = deliverer
        # A name per customer: logs and spans then say whose delivery hangs, which no metric label may.
        self.pools = {name: pool.options(task=f"deliver.{name}") for name in deliverer.targets}
        self.tracer = tracer


class _Intake(JsonHandler):
    server: IntakeServer

    def do_POST(self) -> None:
        with self.server.answering():
            body = self.read_body(MAX_BODY)
            if body is None:
                return
            customer = self.path.removeprefix("/webhooks/")
            if customer in self.server.pools and customer != self.path:
                self._submit(customer, body)
            else:
                self.answer(404, {"error": "no such customer"})

    def _submit(self, customer: str, body: bytes) -> None:
        # Nobody reads the future: a delivery that fails is counted and logged by the pool all the same.
        with self.server.tracer.start_as_current_span("POST /webhooks") as span:
            span.set_attribute("webhook.customer", customer)
            try:
                self.server.pools[customer].submit(self.server.deliverer.deliver, customer, body)
            except RejectedError as error:
                status, headers, why = refusal(error)
                self.answer(status, why, headers)
            else:
                self.answer(202, {"status": "accepted"})
