"""What a task raised in another process comes home as itself, or by name, and a breaker judges it alike."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prodpool import (
    BreakerOpenError,
    BreakerPolicy,
    RemoteTaskError,
    Result,
    TaskTimeoutError,
    WorkerLostError,
)
from tests.backends import work
from tests.backends.conftest import PATIENCE, MakePool, over_processes
from tests.helpers.accounting import check
from tests.helpers.telling import SECRET, TELLING, check_untold

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
elsewhere = pytest.mark.parametrize(
    "kind", [*over_processes, "handed", pytest.param("dask", marks=pytest.mark.once)], indirect=True
)
FAILURES = 3


@elsewhere
@pytest.mark.parametrize(
    ("task", "kind_of_error", "args", "attributes"),
    [
        (work.stubborn, work.StubbornError, ("1 and 2",), {}),
        (work.keyworded, work.KeywordedError, ("no such row",), {"table": "users", "key": 7}),
        (work.freeze, work.FrozenError, ("a",), {"key": "a"}),
        (work.freeze_plainly, work.PlainFrozenError, ("a",), {"key": "a"}),
        (
            work.not_there,
            work.NotThereError,
            (2, "no such file"),
            {"errno": 2, "filename": "f", "place": "there"},
        ),
        (work.ends, work.EndsError, ("bye",), {"code": 4}),
    ],
)
def test_as_itself(
    make_pool: MakePool,
    task: Callable[[], object],
    kind_of_error: type[BaseException],
    args: tuple[Any, ...],
    attributes: dict[str, Any],
) -> None:
    """Whatever its ``__init__`` takes, it is of its class, and has its arguments, attributes and stack."""
    pool = make_pool(1)
    error = pool.submit(task).exception(PATIENCE)
    assert type(error) is kind_of_error
    assert error.args == args
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert f"in {task.__name__}" in str(error.__cause__)
    result = Result.PANIC if kind_of_error is work.EndsError else Result.ERROR  # that is an ImportError
    assert check(pool.stats()).completed[result] == 1


@elsewhere
@pytest.mark.parametrize(
    ("task", "options", "result"),
    [
        (work.misspelt, {}, Result.PANIC),
        (work.misspelt, {"panics": ()}, Result.ERROR),
        (work.misspelt, {"expected": (NameError,)}, Result.EXPECTED),
        (work.keyworded, {"expected": (LookupError,)}, Result.EXPECTED),
        (work.cancel_itself, {}, Result.CANCELLED),
        (work.lock_up, {}, Result.ERROR),
        (work.lock_up, {"panics": (work.TaskError,)}, Result.PANIC),
        (work.lock_up, {"expected": (work.LockedError,)}, Result.EXPECTED),
        (work.lock_up_badly, {"panics": ()}, Result.PANIC),
        (work.lock_up_and_cancel, {}, Result.CANCELLED),
    ],
)
def test_what_it_counts_as(
    make_pool: MakePool, task: Callable[[], object], options: dict[str, Any], result: Result
) -> None:
    """It counts as it would in a thread, also where only its name comes home."""
    pool = make_pool(1, **options)
    assert pool.submit(task).exception(PATIENCE)
    assert check(pool.stats()).completed == {**dict.fromkeys(Result, 0), result: 1}


@elsewhere
@pytest.mark.parametrize("fn", TELLING)
def test_without_its_text(make_pool: MakePool, fn: Callable[[str], None]) -> None:
    """With log_messages=False its stack, which comes home as text, has frames and no message."""
    error = make_pool(1, log_messages=False).submit(fn, SECRET).exception(PATIENCE)
    assert error is not None
    check_untold(make_pool.logs.wait_for("task.error"), fn, error)


@elsewhere
def test_by_its_name(make_pool: MakePool) -> None:
    """One that does not pickle at all is replaced by an error that names it and all that it is."""
    pool = make_pool(1)
    error = pool.submit(work.lock_up).exception(PATIENCE)
    assert isinstance(error, RemoteTaskError)
    assert (error.task, error.error) == ("lock_up", "LockedError")
    assert error.kinds == (
        f"{work.__name__}.LockedError",
        f"{work.TaskError.__module__}.TaskError",
        "builtins.Exception",
        "builtins.BaseException",
        "builtins.object",
    )
    assert "LockedError" in str(error)
    assert "in lock_up" in str(error.__cause__)
    assert pool.submit(abs, -1).result(PATIENCE) == 1


@elsewhere
@pytest.mark.parametrize(
    ("task", "excluded", "trips"),
    [
        (work.stubborn, work.StubbornError, False),
        (work.keyworded, LookupError, False),
        (work.freeze_plainly, work.PlainFrozenError, False),
        (work.lock_up, work.LockedError, False),
        (work.lock_up, work.TaskError, False),
        (work.stubborn, work.TaskError, True),
        (work.lock_up, work.StubbornError, True),
    ],
)
def test_a_breaker_judges_it(
    make_pool: MakePool, task: Callable[[], object], excluded: type[BaseException], *, trips: bool
) -> None:
    """What is excluded trips no breaker, in whatever shape it comes home; what is not does."""
    policy = BreakerPolicy(consecutive_failures=FAILURES, exclude=(excluded,))
    pool = make_pool(1, breaker=policy)
    for _ in range(FAILURES):
        assert pool.submit(task).exception(PATIENCE)
    if trips:
        with pytest.raises(BreakerOpenError):
            pool.submit(abs, -1)
    else:
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert check(pool.stats()).completed[Result.ERROR] == FAILURES


@pytest.mark.parametrize("kind", over_processes, indirect=True)
def test_a_lost_worker_is_a_panic_all_the_same(make_pool: MakePool) -> None:
    """What the pool itself says of the end of a task is not for the application's classes to change."""
    pool = make_pool(1, expected=(Exception,))
    assert isinstance(pool.submit(work.die).exception(PATIENCE), WorkerLostError)
    limited = pool.options(timeout=0.01).submit(time.sleep, PATIENCE)
    assert isinstance(limited.exception(PATIENCE), TaskTimeoutError)
    found = check(pool.stats()).completed
    assert found == {**dict.fromkeys(Result, 0), Result.PANIC: 1, Result.TIMEOUT: 1}


SCRIPT = """
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor

from prodpool import InstrumentedPool


class DeclinedError(Exception):
    def __init__(self):
        self.lock = threading.Lock()  # which does not pickle


def decline():
    raise DeclinedError


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with InstrumentedPool(ProcessPoolExecutor(1, context), name="cards", expected=(DeclinedError,)) as pool:
        pool.submit(decline).exception()
    print(pool.stats().completed["expected"])
"""


@pytest.mark.once
def test_of_the_applications_own_script(tmp_path: Path) -> None:
    """A class of the script is known although a spawned process has the script under another name."""
    script = tmp_path / "service.py"
    script.write_text(SCRIPT)
    told = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=PATIENCE * 4, check=True
    )
    assert told.stdout == "1\n", told.stderr
