"""What counts as what: the result of a task by what it raised."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import pytest

import prodpool
from prodpool import BreakerPolicy, Result
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.accounting import check
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import PATIENCE
from tests.support import Logs, MakePool


class CardDeclinedError(TaskError):
    """What is part of the business here."""


class EvasiveError(Exception):
    """An exception that does not even tell its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("not mine")

    @__class__.setter
    def __class__(self, _: object) -> None: ...


def throw(error: BaseException) -> None:
    raise error


def only(result: Result) -> dict[Result, int]:
    """What `PoolStats.completed` is after one task."""
    return {**dict.fromkeys(Result, 0), result: 1}


BUGS: list[BaseException] = [
    NameError(),
    UnboundLocalError(),
    AttributeError(),
    ImportError(),
    ModuleNotFoundError(),
    NotImplementedError(),
    SyntaxError(),
    IndentationError(),
    RecursionError(),
    SystemError(),
]
BARE: list[BaseException] = [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException()]
ERRORS: list[BaseException] = [
    Exception(),
    TaskError(),
    ValueError(),
    KeyError(),
    TypeError(),
    RuntimeError(),
    MemoryError(),
    TimeoutError(),
    StopIteration(),
    EvasiveError(),
]
CANCELLED: list[BaseException] = [asyncio.CancelledError(), concurrent.futures.CancelledError()]


@pytest.mark.parametrize(
    ("error", "result"),
    [
        *((error, Result.PANIC) for error in (*BUGS, *BARE)),
        *((error, Result.ERROR) for error in ERRORS),
        *((error, Result.CANCELLED) for error in CANCELLED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_by_default(make_pool: MakePool, error: BaseException, result: Result) -> None:
    """A bug and a bare BaseException are panics, CancelledError is cancelled, all else is an error."""
    pool = make_pool(1)
    raised = pool.submit(throw, error).exception(PATIENCE)
    assert raised is error or type(error) is StopIteration
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert check(pool.stats()).completed == {**only(result), Result.OK: 1}


@pytest.mark.parametrize(
    ("options", "error", "result"),
    [
        ({"panics": (TypeError,)}, TypeError(), Result.PANIC),
        ({"panics": (TypeError,)}, NameError(), Result.ERROR),
        ({"panics": (TypeError,)}, SystemExit(), Result.PANIC),
        ({"panics": (TaskError,)}, CardDeclinedError(), Result.PANIC),
        ({"panics": (CardDeclinedError,)}, TaskError(), Result.ERROR),
        ({"panics": ()}, NameError(), Result.ERROR),
        ({"panics": ()}, GeneratorExit(), Result.PANIC),
        ({"panics": ()}, asyncio.CancelledError(), Result.CANCELLED),
        ({"panics": (BaseException,)}, TaskError(), Result.PANIC),
        ({"panics": (BaseException,)}, asyncio.CancelledError(), Result.CANCELLED),
        ({"panics": (LookupError,), "expected": (KeyError,)}, KeyError(), Result.EXPECTED),
        ({"panics": (LookupError,), "expected": (KeyError,)}, IndexError(), Result.PANIC),
        ({"panics": (KeyError,), "expected": (LookupError,)}, KeyError(), Result.EXPECTED),
        ({"expected": (TaskError,)}, CardDeclinedError(), Result.EXPECTED),
        ({"expected": (CardDeclinedError,)}, TaskError(), Result.ERROR),
        ({"expected": (NotImplementedError,)}, NotImplementedError(), Result.EXPECTED),
        ({"expected": (SystemExit,)}, SystemExit(), Result.EXPECTED),
        ({"expected": (StopIteration,)}, StopIteration(), Result.EXPECTED),
        ({"expected": (asyncio.CancelledError,)}, asyncio.CancelledError(), Result.EXPECTED),
    ],
    ids=repr,
)
def test_as_the_pool_is_told(
    make_pool: MakePool, options: dict[str, Any], error: BaseException, result: Result
) -> None:
    """The expected are asked first, then whether the task was cancelled, then what is a bug."""
    pool = make_pool(1, **options)
    assert pool.submit(throw, error).exception(PATIENCE)
    assert check(pool.stats()).completed == only(result)


def test_wherever_a_task_runs(make_pool: MakePool) -> None:
    """A task that its submitter runs, or another task that waits for it, counts as any other."""
    pool = make_pool(1, queue_capacity=0, overload="caller_runs", expected=(CardDeclinedError,))
    hold = BlockingTask()
    occupy(pool, hold, 1)
    for error in (NameError(), CardDeclinedError(), asyncio.CancelledError()):
        assert pool.submit(throw, error).exception(0) is error
    hold.release()
    inner = make_pool(1, name="inner", expected=(CardDeclinedError,))

    def outer() -> None:
        inner.submit(throw, CardDeclinedError()).exception(PATIENCE)

    inner.submit(outer).result(PATIENCE)
    pool.stop(PATIENCE)
    found = check(pool.stats()).completed
    assert [found[one] for one in (Result.PANIC, Result.EXPECTED, Result.CANCELLED)] == [1, 1, 1]
    assert check(inner.stats()).completed == {**only(Result.EXPECTED), Result.OK: 1}


def test_in_both(make_pool: MakePool) -> None:
    """A class that is given as a bug and as expected is refused by its name."""
    with pytest.raises(ValueError, match=r"panics=.*, expected=.*: builtins\.KeyError is in both"):
        make_pool(1, panics=(TypeError, KeyError), expected=(OSError, KeyError))


def test_ready_made_pools_take_them() -> None:
    """Pools of threads and of processes are told what counts as what, too."""
    options: dict[str, Any] = {
        "panics": (ValueError,),
        "expected": (ZeroDivisionError,),
        "log_messages": False,
    }
    with prodpool.threads(name="own", max_workers=1, **options) as pool:
        pool.submit(int, "x").exception(PATIENCE)
        pool.submit(divmod, 1, 0).exception(PATIENCE)
        assert check(pool.stats()).completed == {**only(Result.PANIC), Result.EXPECTED: 1}
    pool.close_metrics()


@pytest.mark.parametrize("error", CANCELLED, ids=["asyncio", "concurrent.futures"])
def test_a_cancelled_task(make_pool: MakePool, logs: Logs, error: BaseException) -> None:
    """Its future raises the error and was not cancelled itself; the log has it at info, with a stack."""
    pool = make_pool(1, clock=ManualClock(), breaker=BreakerPolicy(consecutive_failures=1))
    future = pool.options(task="stopped").submit(throw, error)
    with pytest.raises(type(error)):
        future.result(PATIENCE)
    assert (future.done(), future.cancelled()) == (True, False)
    line = logs.wait_for("task.cancelled")
    assert "in throw" in str(line.pop("stack"))
    assert line == {
        "event": "task.cancelled",
        "log_level": "info",
        "pool": "test",
        "task": "stopped",
        "duration": 0.0,
        "error": "CancelledError",
        "error_message": "",
    }
    assert pool.stats().breaker == "closed"


def test_an_expected_error(make_pool: MakePool, logs: Logs) -> None:
    """It is one line at info without a stack, and no other."""
    pool = make_pool(1, clock=ManualClock(), expected=(CardDeclinedError,))
    pool.options(task="charge").submit(throw, CardDeclinedError("no funds")).exception(PATIENCE)
    pool.stop()
    assert [line for line in logs.entries if line["event"].startswith("task.")] == [
        {
            "event": "task.expected",
            "log_level": "info",
            "pool": "test",
            "task": "charge",
            "duration": 0.0,
            "error": "CardDeclinedError",
            "error_message": "no funds",
        }
    ]


@pytest.mark.parametrize(
    ("error", "event"),
    [(CardDeclinedError(), "task.expected"), (asyncio.CancelledError(), "task.cancelled")],
    ids=["expected", "cancelled"],
)
def test_a_storm_of_no_failures(make_pool: MakePool, logs: Logs, error: BaseException, event: str) -> None:
    """A hundred lines are written at once, and how many more there were is told at info, too."""
    pool = make_pool(1, clock=ManualClock(), expected=(CardDeclinedError,))
    for _ in range(150):
        pool.submit(throw, error).exception(PATIENCE)
    pool.stop()
    lines = logs.named(event)
    assert {line["log_level"] for line in lines} == {"info"}
    assert (len(lines), lines[-1]["suppressed"], lines[-1]["summary"]) == (101, 50, True)


@pytest.mark.parametrize(("exclude", "state"), [((), "open"), ((CardDeclinedError,), "closed")])
def test_a_breaker_judges_for_itself(
    make_pool: MakePool, exclude: tuple[type[BaseException], ...], state: str
) -> None:
    """An expected error is a failure to the breaker unless that excludes it."""
    policy = BreakerPolicy(consecutive_failures=1, exclude=exclude)
    pool = make_pool(1, breaker=policy, expected=(CardDeclinedError,))
    pool.submit(throw, CardDeclinedError()).exception(PATIENCE)
    assert pool.stats().breaker == state


@pytest.mark.parametrize("result", list(Result), ids=str)
def test_what_a_failure_is(result: Result) -> None:
    """What counts against an error budget is an error, a panic or a timeout."""
    assert result.is_failure is (result in {"error", "panic", "timeout"})


def test_the_fast_way_stays(make_pool: MakePool) -> None:
    """A pool that is told what counts as what settles a task that ends well where it runs it."""
    pool = make_pool(1, panics=(TypeError,), expected=(CardDeclinedError,), log_messages=False)
    assert not pool._engine.settlement.every_task
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert flush_telemetry(pool)
    assert check(pool.stats()).completed == only(Result.OK)
