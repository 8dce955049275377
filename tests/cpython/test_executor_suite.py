"""What CPython asks of an executor, asked of the pool."""

from __future__ import annotations

import importlib
import inspect
import os
import unittest
from collections.abc import Iterator

import pytest

from tests.cpython import suite
from tests.cpython.exclusions import EXCLUSIONS
from tests.cpython.wrapped import ThreadPoolExecutor

MODULES = suite.load()
CASES = {suite.case_name(case): case for case in suite.thread_cases(MODULES)}

pytestmark = [
    # Some cases sleep for six seconds, one forks fifty times.
    pytest.mark.timeout(180),
    # That one forks while the executor's threads run, which is its point.
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def _suite_module() -> Iterator[None]:
    """Set up and clean up what the suite's modules want, and have the watchdog's thread running.

    The cases count threads; the watchdog, one for the process, must not start within one of them.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        for module in MODULES:
            if hasattr(module, "setUpModule"):
                module.setUpModule()
        yield
        unittest.doModuleCleanups()


def test_suite_is_there() -> None:
    """CI has CPython's tests for the interpreter it runs."""
    if CASES:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(suite.MISSING)
    pytest.skip(suite.MISSING)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCLUSIONS])
def test_case(name: str) -> None:
    """The pool passes this case of CPython's, and no thread outlives it."""
    support = importlib.import_module("test.support")
    support.environment_altered = False
    result = unittest.TestResult()
    CASES[name].run(result)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not [text for _, text in result.errors + result.failures]
    assert not support.environment_altered, "a thread or a child process was left behind"


@pytest.mark.parametrize("name", EXCLUSIONS)
def test_exclusion_holds(name: str) -> None:
    """A case that is left out exists and does read the private attribute given as the reason."""
    if name not in CASES:
        pytest.skip(f"{name} is not among this version's cases")
    method = getattr(type(CASES[name]), name.rpartition(".")[2])
    assert f".{EXCLUSIONS[name].private}" in inspect.getsource(method)
