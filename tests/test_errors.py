"""The public exceptions: what a handler can read, what a person can do, what a process boundary keeps."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import BrokenExecutor

import pytest

from prodpool import errors
from prodpool.errors import (
    BreakerOpenError,
    PoolBrokenError,
    PoolClosedError,
    PoolForkedError,
    PoolFullError,
    RejectedError,
    RemoteTaskError,
    TaskExpiredError,
    TaskTimeoutError,
    UnpicklableError,
    WorkerLostError,
)
from prodpool.task.outcomes import Reason, Result

EACH = [
    PoolFullError(
        pool="mail", queued=5, queue_capacity=5, retry_after=0.25, detail="Call the function directly"
    ),
    PoolClosedError(pool="mail"),
    BreakerOpenError(pool="mail", retry_after=12.0, why="open, consecutive failures: 5"),
    TaskExpiredError(pool="mail", task="deliver", deadline=5.0, dwell=5.2),
    WorkerLostError(pool="mail", task="deliver", detail="killed by signal 9"),
    PoolBrokenError(pool="mail", cause=BrokenExecutor("a process in it was killed")),
    RemoteTaskError(pool="mail", task="deliver", error="SSLError"),
    UnpicklableError(pool="mail", task="deliver", what="argument 1 does not pickle", error=TypeError("no")),
    TaskTimeoutError(pool="mail", task="deliver", timeout=2.5),
    RejectedError("no", pool="mail", reason=Reason.FULL),
    PoolForkedError(pool="mail"),
]
each = pytest.mark.parametrize("error", EACH, ids=lambda error: type(error).__name__)


def test_every_public_error_is_covered_here() -> None:
    """A new error cannot be forgotten in these tests."""
    assert {type(error).__name__ for error in EACH} == set(errors.__all__)


@each
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled(error: Exception, protocol: int) -> None:
    """An error arrives in another process with its type, message, fields and notes."""
    error.add_note("seen in worker 3")
    try:
        twin = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301
        assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
    finally:
        del error.__notes__


@each
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copied(error: Exception, copied: object) -> None:
    """A copy has the same type, message and fields."""
    twin = copied(error)  # type: ignore[operator]
    assert twin is not error
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


@each
def test_what_callers_already_catch(error: Exception) -> None:
    """Every error is a RuntimeError, as the standard library raises, and names its pool."""
    assert isinstance(error, RuntimeError)
    assert error.pool == "mail"  # type: ignore[attr-defined]
    assert "'mail'" in str(error) or str(error) == "no"
    assert type(error).__doc__
    assert str(type(error).__doc__).startswith("Raised when ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (EACH[0], Reason.FULL),
        (EACH[1], Reason.CLOSED),
        (EACH[2], Reason.BREAKER_OPEN),
        (EACH[3], Reason.EXPIRED),
        (EACH[4], None),
        (EACH[5], Reason.CLOSED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_reason(error: RejectedError, reason: Reason | None) -> None:
    """The reason is the word the drop is counted under; a lost worker's task ran and has none."""
    assert error.reason is reason
    assert isinstance(error, RejectedError) is (reason not in {Reason.EXPIRED, None})


def test_what_broke_is_a_broken_executor() -> None:
    """Code that catches the standard library's BrokenExecutor catches a lost worker and a broken pool."""
    assert isinstance(EACH[4], BrokenExecutor)
    assert isinstance(EACH[5], BrokenExecutor)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PoolFullError(pool="mail", queued=5, queue_capacity=5, retry_after=0.25),
            ["5 of 5", "Retry in about 0.25 s", "options(wait=seconds)", "queue_capacity"],
        ),
        (EACH[0], ["5 of 5", "Call the function directly"]),
        (PoolFullError(pool="mail", queued=0, queue_capacity=0), ["every worker is busy", "Retry later"]),
        (PoolClosedError(pool="mail"), ["stop()", "build a new one"]),
        (PoolClosedError(pool="mail", detail="built before a fork: build it after"), ["build it after"]),
        (EACH[2], ["consecutive failures: 5", "Retry in about 12 s", "probe"]),
        (EACH[3], ["'deliver'", "5.2 s", "5 s", "more workers"]),
        (EACH[4], ["'deliver'", "signal 9", "submit it again only if"]),
        (WorkerLostError(pool="mail", task="deliver", began=False), ["never began"]),
        (EACH[5], ["a process in it was killed", "build a new executor"]),
        (EACH[6], ["'deliver'", "SSLError", "worker process"]),
        (
            PoolForkedError(pool="mail"),
            ["build the pool after the fork", "InstrumentedPool(ThreadPoolExecutor, "],
        ),
        (EACH[7], ["'deliver'", "argument 1 does not pickle", "TypeError: no", "importable module"]),
    ],
)
def test_message_says_the_way_out(error: Exception, words: list[str]) -> None:
    """The message holds the numbers and what to do."""
    assert [word for word in words if word not in str(error)] == []


def test_words() -> None:
    """The words are those of metrics and dashboards."""
    assert [str(reason) for reason in Reason] == [
        "full", "closed", "breaker_open", "expired", "cancelled", "shutdown",
    ]  # fmt: skip
    assert [str(result) for result in Result] == ["ok", "error", "panic", "timeout", "cancelled", "expected"]
