"""What CPython asks of an executor, asked of the pool."""

from __future__ import annotations

import gc
import importlib
import inspect
import sys
import threading
import time
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cpython import suite
from tests.cpython.exclusions import EXCLUSIONS
from tests.cpython.wrapped import ThreadPoolExecutor
from tests.support import missing

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
    """CPython's executor tests are found, and more of them run than are left out."""
    if not CASES:
        version = f"libpython3.{sys.version_info.minor}-testsuite"
        missing(f"CPython's {suite.SUITE}", f"run: apt-get install {version}")
    assert len(CASES) > 2 * len(EXCLUSIONS)


@pytest.fixture
def _garbage_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have garbage collected, and pools nobody refers to drained, before the suite looks for threads left.

    Newer versions of the suite collect and look again by themselves. That of 3.11.2 reports at first sight,
    and also when a thread object that had ended before is collected meanwhile.
    """
    helper: Any = importlib.import_module("test.support.threading_helper")
    cleanup = helper.threading_cleanup

    def collect_and_clean_up(*values: Any) -> None:
        ends = time.monotonic() + 2.0
        gc.collect()
        while threading.active_count() - 1 > values[0] and time.monotonic() < ends:
            time.sleep(0.01)
            gc.collect()
        if threading.active_count() - 1 > values[0]:
            cleanup(*values)

    monkeypatch.setattr(helper, "threading_cleanup", collect_and_clean_up)


@pytest.mark.slow
@pytest.mark.usefixtures("_garbage_is_no_leak")
@pytest.mark.parametrize("name", [name for name in CASES if name not in EXCLUSIONS])
def test_case(name: str) -> None:
    """The pool passes this case of CPython's, and no thread outlives it."""
    support: Any = importlib.import_module("test.support")
    support.environment_altered = False
    result = unittest.TestResult()
    CASES[name].run(result)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not [text for _, text in result.errors + result.failures]
    assert not support.environment_altered, "a thread or a child process was left behind"


def test_exclusions_hold() -> None:
    """A case that is left out exists and does read the private attribute given as the reason."""
    for name in CASES.keys() & EXCLUSIONS.keys():
        method = getattr(type(CASES[name]), name.rpartition(".")[2])
        assert f".{EXCLUSIONS[name].private}" in inspect.getsource(method), name
