"""What one task of the pool does: post one webhook to one customer."""

from __future__ import annotations

import urllib3
from opentelemetry import propagate

# Longer answers are not read to the end: the connection is given up instead.
_MAX_ANSWER = 4096


class DeliveryFailedError(Exception):
    """Raised when a customer answers with 4xx or 5xx: an ``error`` for the pool, and for its breaker."""

    def __init__(self, customer: str, status: int) -> None:
        """Say who answered what; the URL may carry a token and stays out of it."""
        super().__init__(f"customer {customer!r} answered {status}")
        self.customer = customer
        self.status = status


class Deliverer:
    """Posts webhooks over kept connections; used by every worker at once."""

    def __init__(self, targets: dict[str, str], *, workers: int, timeout: float | None) -> None:
        """Prepare one connection pool per customer.

        Args:
            targets: URL per customer.
            workers: Deliveries at the same time, hence connections kept per customer.
            timeout: Seconds for a delivery's connect, and for its answer. None waits for ever, which is the
                incident this example is about.
        """
        self.targets = targets
        self._http = urllib3.PoolManager(
            num_pools=max(len(targets), 1),
            maxsize=workers,
            # Resending is a decision for the queue and the customer, not for the HTTP client.
            retries=False,
            timeout=urllib3.Timeout(connect=timeout, read=timeout),
        )

    def deliver(self, customer: str, body: bytes) -> None:
        """Post ``body`` to the customer's URL.

        Raises:
            DeliveryFailedError: The customer answered with 4xx or 5xx.
            urllib3.exceptions.HTTPError: No connection, or no answer within the timeout.
        """
        headers = {"Content-Type": "application/json"}
        propagate.inject(headers)
        answer = self._http.request(
            "POST", self.targets[customer], body=body, headers=headers, redirect=False, preload_content=False
        )
        try:
            if int(answer.headers.get("Content-Length", _MAX_ANSWER + 1)) <= _MAX_ANSWER:
                answer.drain_conn()
            if answer.status >= 400:
                raise DeliveryFailedError(customer, answer.status)
        finally:
            answer.close() if answer.length_remaining else answer.release_conn()

    def close(self) -> None:
        """Give up the connections that are idle."""
        self._http.clear()
