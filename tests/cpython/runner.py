"""Run cases of one class of CPython's suite in a process of their own: ``runner FILE CLASS.METHOD ...``.

They count threads, fork, kill children and stop the servers of multiprocessing, so they share a process
with nothing else. What came of each case is a line of JSON in the file.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import multiprocessing
import sys
import threading
import time
import types
import unittest
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.cpython import suite
from tests.cpython.wrapped import ThreadPoolExecutor

# Seconds after which everybody's stack is on stderr, and the process ends.
TOO_LONG = 300.0

# Here, because a worker process imports this file as well before it loads what it is to call.
suite.make_importable()


def main(results: Path, wanted: list[str]) -> None:
    """Run the cases named, with the modules they are in set up and cleaned up."""
    faulthandler.dump_traceback_later(TOO_LONG, exit=True)
    # A case over fork forks while the pool's threads run, which is its point; one over threads does as well.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
    modules = suite.load()
    cases = {suite.case_name(case): case for case in suite.executor_cases(modules)}
    _wait_before_counting()
    # Or each worker would import all this anew, and some cases give theirs five seconds.
    multiprocessing.set_forkserver_preload([suite.__name__])
    # The cases count threads; the watchdog, one for the process, must not start within one of them.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
    _set_up({type(cases[name]).__module__ for name in wanted}, modules)
    for name in wanted:
        outcome = _run(name, cases[name])
        with results.open("a") as file:
            file.write(f"{json.dumps(outcome)}\n")
    unittest.doModuleCleanups()


def _set_up(names: set[str], modules: list[types.ModuleType]) -> None:
    for module in modules:
        if module.__name__ in names and hasattr(module, "setUpModule"):
            module.setUpModule()


def _run(name: str, case: unittest.TestCase) -> dict[str, Any]:
    support: Any = importlib.import_module("test.support")
    support.environment_altered = False
    result = unittest.TestResult()
    case.run(result)
    return {
        "name": name,
        "run": result.testsRun,
        "skipped": [reason for _, reason in result.skipped],
        "errors": [text for _, text in result.errors + result.failures],
        "left_behind": bool(support.environment_altered),
    }


def _wait_before_counting() -> None:
    """Have processes end, garbage collected and lost pools drained before the suite looks what is left.

    A pool's shutdown waits for its tasks, and for half a second after that: it leaves behind processes that
    have not even come up by then. The suite of 3.11.2 reports at first sight where newer ones look again, and
    also when a thread object that had ended before is collected meanwhile.
    """
    support: Any = importlib.import_module("test.support")
    helper: Any = importlib.import_module("test.support.threading_helper")
    reap, cleanup = support.reap_children, helper.threading_cleanup

    def wait_and_reap() -> None:
        _until(lambda: not multiprocessing.active_children())
        reap()

    def collect_and_clean_up(*values: Any) -> None:
        if not _until(lambda: threading.active_count() - 1 <= values[0]):
            cleanup(*values)

    support.reap_children, helper.threading_cleanup = wait_and_reap, collect_and_clean_up


def _until(holds: Callable[[], bool]) -> bool:
    """Wait until something holds; False if it does not within what a machine under load may take."""
    ends = time.monotonic() + 30.0
    gc.collect()
    while not holds():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
        gc.collect()
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
