"""What an HTTP client is told when a pool does not take its work."""

from __future__ import annotations

import json
import math
from typing import NamedTuple

from prodpool.errors import PoolFullError, RejectedError, TaskExpiredError

# Seconds. No client waits for longer than a day.
_LONGEST = 24 * 3600


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
    if all of them are, as when a TaskGroup submits several tasks; its answer is that with the longest wait. A
    wait is from a second to a day, and a second where it is not known.
    """
    if isinstance(error, BaseExceptionGroup):
        refusals = [refusal_of(each) for each in error.exceptions]
        # The first of those that are equal.
        return None if None in refusals else max(filter(None, refusals), key=_wait)
    if not isinstance(error, RejectedError | TaskExpiredError):
        return None
    seconds = _whole_seconds(error.retry_after)
    body = json.dumps({"reason": str(error.reason), "retry_after": seconds}).encode()
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Retry-After", str(seconds)),
    )
    return Refusal(429 if isinstance(error, PoolFullError) else 503, headers, body)


def _whole_seconds(wait: float | None) -> int:
    return 1 if wait is None or math.isnan(wait) else math.ceil(min(max(wait, 1.0), _LONGEST))


def _wait(refusal: Refusal) -> int:
    return int(dict(refusal.headers)["Retry-After"])
