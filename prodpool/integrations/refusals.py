"""What an HTTP client is told when a pool does not take its work."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from prodpool.errors import PoolFullError, RejectedError, TaskExpiredError


class Refusal(NamedTuple):
    """An answer in HTTP.

    Attributes:
        status: 429 or 503.
        headers: Names and values; ``Retry-After`` is in whole seconds.
        body: JSON. It says nothing about the inside of the service.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def refusal_of(error: BaseException) -> Refusal | None:
    """Return the answer to a request whose work was refused with ``error``; None for any other error.

    429 for a full pool: the clients send more than the service can do. 503 for a pool that stops, a breaker
    that is open, and a task that was dropped because it had waited too long. A group of errors is a refusal
    if all of them are, as when a TaskGroup submits several tasks.
    """
    if isinstance(error, BaseExceptionGroup):
        refusals = [refusal_of(each) for each in error.exceptions]
        return refusals[0] if all(refusals) else None
    if not isinstance(error, RejectedError | TaskExpiredError):
        return None
    seconds = max(1, math.ceil(error.retry_after or 1.0))
    body = json.dumps({"reason": str(error.reason), "retry_after": seconds}).encode()
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Retry-After", str(seconds)),
    )
    return Refusal(429 if isinstance(error, PoolFullError) else 503, headers, body)
