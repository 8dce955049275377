"""What an HTTP client is told of each error."""

from __future__ import annotations

import json
import math

import pytest

from prodpool import (
    BreakerOpenError,
    PoolClosedError,
    PoolForkedError,
    PoolFullError,
    TaskExpiredError,
)
from prodpool.integrations.refusals import refusal_of

pytestmark = pytest.mark.once

FULL = PoolFullError(pool="orders", queued=2, queue_capacity=2, retry_after=2.1)


def open_for(seconds: float) -> BreakerOpenError:
    return BreakerOpenError(pool="orders", retry_after=seconds)


@pytest.mark.parametrize(
    ("error", "status", "reason", "seconds"),
    [
        (FULL, 429, "full", 3),
        (PoolClosedError(pool="orders"), 503, "closed", 1),
        (BreakerOpenError(pool="orders", retry_after=29.5), 503, "breaker_open", 30),
        (TaskExpiredError(pool="orders", task="charge", deadline=1.0, dwell=1.5), 503, "expired", 1),
        (ExceptionGroup("two tasks", [FULL, PoolClosedError(pool="orders")]), 429, "full", 3),
        (ExceptionGroup("two tasks", [FULL, open_for(30.0)]), 503, "breaker_open", 30),
        (open_for(math.inf), 503, "breaker_open", 86_400),
        (open_for(math.nan), 503, "breaker_open", 1),
        (open_for(-1.0), 503, "breaker_open", 1),
    ],
)
def test_refused(error: Exception, status: int, reason: str, seconds: int) -> None:
    """The client learns the status, why, and when to come back, in header and body alike; not the pool."""
    refusal = refusal_of(error)
    assert refusal is not None
    assert refusal.status == status
    assert json.loads(refusal.body) == {"reason": reason, "retry_after": seconds}
    assert dict(refusal.headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(refusal.body)),
        "Retry-After": str(seconds),
    }


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a bug"),
        PoolForkedError(pool="orders"),
        KeyboardInterrupt(),
        ExceptionGroup("one is a bug", [FULL, ValueError("a bug")]),
    ],
    ids=repr,
)
def test_not_refused(error: BaseException) -> None:
    """Any other error is the application's own to answer."""
    assert refusal_of(error) is None
