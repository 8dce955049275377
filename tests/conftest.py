"""Fixtures for every test: nothing may leak, and a pool needs one line."""

from __future__ import annotations

import itertools
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from tests.support import LEAVES_LONG_OUT, Logs, MakePool, child_processes, missing, still_there

if TYPE_CHECKING:
    from prodpool import InstrumentedPool

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So it is under nohup, in a shell's background and on many CI runners, and would be in every child.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A task that a test has left hanging is not waited for any longer.
STOP_DEADLINE = 1.0


# Marked `beside`: about as long as what is marked `once` is shorter than the others.
BESIDE = Path(__file__).parent / "process"


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs beside the rest, and leave the longest tests out where `make test` says so.

    Named on pytest's own command line, the longest run.
    """
    for item in items:
        if BESIDE in item.path.parents:
            item.add_marker("beside")
    if LEAVES_LONG_OUT:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="long: CI runs it, and so does `make test LONG=1`"))


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves threads or child processes behind, save those of `tests.support.MAY_STAY`."""
    threads, children = set(threading.enumerate()), child_processes()
    yield
    leaked_threads, leaked_children = still_there(threads, children)
    if leaked_threads or leaked_children:
        pytest.fail(f"leaked threads {leaked_threads}, child processes {leaked_children}", pytrace=False)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return a registry of this test's own, so that pool names never collide."""
    return CollectorRegistry(auto_describe=True)


@pytest.fixture
def logs() -> Iterator[Logs]:
    """Record what a pool logs, and hold each line to the reference; ``make_pool`` hands it the logger."""
    from tests.log_reference import difference  # tests of single modules need no whole package

    recorded = Logs()
    yield recorded
    lines = [
        {key: value for key, value in entry.items() if key not in recorded.bound}
        for entry in recorded.written
    ]
    assert [said for line in lines if (said := difference(line))] == []


@pytest.fixture
def make_pool(registry: CollectorRegistry, logs: Logs) -> Iterator[MakePool]:
    """Build pools over a ``ThreadPoolExecutor`` and stop them after the test, however it ended."""
    from prodpool import InstrumentedPool  # tests of single modules need no whole package

    pools: list[InstrumentedPool] = []
    numbers = itertools.count(1)

    def make(workers: int = 2, /, **options: Any) -> InstrumentedPool:
        number = next(numbers)
        options.setdefault("name", "test" if number == 1 else f"test_{number}")
        options.setdefault("registry", registry)
        options.setdefault("logger", logs.logger)
        pool = InstrumentedPool(ThreadPoolExecutor(workers), **options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.resume()
        pool.stop(deadline=STOP_DEADLINE)
        pool.close_metrics()


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return the path of ``promtool``; without it the test fails in CI and is skipped elsewhere."""
    return shutil.which("promtool") or missing("promtool", "run: apt-get install prometheus")
