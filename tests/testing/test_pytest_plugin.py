"""The fixture ``instrumented_pool``, in runs of pytest of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(60)]

INI = """
[pytest]
addopts = --strict-markers --strict-config
filterwarnings = error
asyncio_default_fixture_loop_scope = function
"""
CONFTEST = 'pytest_plugins = ["prodpool.testing.pytest_plugin"]\n'
PROGRAM = """
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from prodpool import InstrumentedPool
from prodpool.testing import InlineExecutor, PoolFactory

released = threading.Event()


def charge():
    assert released.wait(30)


def test_is_clean(instrumented_pool: PoolFactory):
    pool, second = instrumented_pool(), instrumented_pool()
    assert isinstance(pool, InstrumentedPool)
    assert (pool.name, second.name, pool.stats().workers) == ("test", "test_2", 2)
    assert pool.submit(int, "3").result(20) == 3
    samples = instrumented_pool.registry.get_sample_value
    assert samples("workerpool_submitted_total", {"pool": "test"}) == 1


def test_has_a_registry_of_its_own(instrumented_pool):
    samples = instrumented_pool.registry.get_sample_value
    assert samples("workerpool_submitted_total", {"pool": "test"}) is None
    pool = instrumented_pool(InlineExecutor(), name="mail", queue_capacity=7, drain_deadline=1.5)
    assert pool.submit(int).done()
    assert (pool.name, pool.stats().queue_capacity) == ("mail", 7)
    assert samples("workerpool_submitted_total", {"pool": "mail"}) == 1
    three = instrumented_pool(max_workers=3)
    four = instrumented_pool(ThreadPoolExecutor, max_workers=4, name="factory")
    assert (three.stats().workers, four.stats().workers) == (3, 4)


async def wait_for(pool):
    return await pool.run(int, "3")


def test_may_be_stopped_by_the_test(instrumented_pool):
    import asyncio

    pool = instrumented_pool()
    assert asyncio.run(wait_for(pool)) == 3
    assert pool.stop().drained


def test_drains_what_is_paused(instrumented_pool):
    pool = instrumented_pool()
    pool.pause()
    pool.submit(int)


def test_leaves_a_task(instrumented_pool):
    pool = instrumented_pool(ThreadPoolExecutor(1), name="payments", drain_deadline=0.1)
    pool.submit(charge)
    pool.submit(charge)
    instrumented_pool(name="innocent").submit(int)


def test_expects_to_leave_a_task(instrumented_pool):
    released.clear()
    instrumented_pool(drain_deadline=0.1, check_leaks=False).submit(charge)


def test_abandons_a_task_itself(instrumented_pool):
    pool = instrumented_pool(name="refunds")
    pool.submit(charge)
    assert not pool.stop(deadline=0.1).drained


def test_fails_by_itself(instrumented_pool):
    instrumented_pool().submit(int)
    raise AssertionError("its own")


def test_leaves_a_thread(monkeypatch, instrumented_pool):
    monkeypatch.setattr("prodpool.testing.pool_factory.GRACE", 0.1)
    instrumented_pool(name="mail").submit(int)
    # As a fault of prodpool's would, since it has no other way to leave one.
    threading.Thread(target=charge, name="prodpool-log-mail", daemon=True).start()
    threading.Thread(target=charge, name="prodpool-log-e-mail", daemon=True).start()


def test_wrong_arguments(instrumented_pool):
    with pytest.raises(ValueError, match="max_workers=0"):
        instrumented_pool(ThreadPoolExecutor, max_workers=0)
    with pytest.raises(TypeError):
        instrumented_pool(ThreadPoolExecutor(1), colour="red")


@pytest.fixture(autouse=True, scope="module")
def release():
    yield
    released.set()
"""


class Told(NamedTuple):
    """What a run of pytest told of one test: of its call, and of the end of its fixtures."""

    failure: str = ""
    error: str = ""


def run_pytest(
    folder: Path, program: str, *options: str, conftest: str = CONFTEST
) -> subprocess.CompletedProcess[str]:
    """Run pytest on a program in a process of its own, with warnings as errors."""
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_program.py").write_text(program)
    (folder / "pytest.ini").write_text(INI)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        stdin=subprocess.DEVNULL,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """Run the program once; return what was told of each test."""
    folder = tmp_path_factory.mktemp("plugin")
    done = run_pytest(folder, PROGRAM, "--junitxml=told.xml")
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, Told] = {}
    for case in ET.parse(folder / "told.xml").iter("testcase"):  # noqa: S314  # pytest wrote it just now
        parts = {kind: "".join(each.text or "" for each in case.iter(kind)) for kind in ("failure", "error")}
        before = found.get(case.attrib["name"], Told())
        found[case.attrib["name"]] = Told(before.failure + parts["failure"], before.error + parts["error"])
    return found


def test_only_leaks_and_failures_are_told(told: dict[str, Told]) -> None:
    """Tests that leave nothing behind pass; those that do have an error; one that fails by itself fails."""
    assert len(told) == 10
    assert {name for name, each in told.items() if each.error} == {
        "test_leaves_a_task",
        "test_abandons_a_task_itself",
        "test_leaves_a_thread",
    }
    assert {name for name, each in told.items() if each.failure} == {"test_fails_by_itself"}


def test_an_abandoned_task_is_named_with_its_stack(told: dict[str, Told]) -> None:
    """The error says which pool left which task, where that is, what was dropped, and what to do."""
    error = told["test_leaves_a_task"].error
    assert "pool 'payments' was not drained" in error
    assert "1 queued tasks were dropped; still running: charge" in error
    assert "assert released.wait(30)" in error
    assert "check_leaks=False" in error
    assert "innocent" not in error
    assert "pool 'refunds' was not drained" in told["test_abandons_a_task_itself"].error


def test_a_thread_is_named_with_its_stack(told: dict[str, Told]) -> None:
    """The error says which thread of a pool still runs, and where; threads of other pools are not told of."""
    error = told["test_leaves_a_thread"].error
    assert "pool 'mail' was stopped, and its thread 'prodpool-log-mail' still runs" in error
    assert "in charge" in error
    assert "prodpool-log-e-mail" not in error


def test_the_guides_example_passes(tmp_path: Path) -> None:
    """The tests that the guide shows pass with the line that the guide has in ``conftest.py``."""
    page = (ROOT / "docs" / "guides" / "testing.md").read_text()
    assert f"`{CONFTEST.strip()}`" in page
    [program] = [
        block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "def test_" in block
    ]
    done = run_pytest(tmp_path, program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_it_is_loaded_where_it_is_asked_for(tmp_path: Path) -> None:
    """No run of pytest loads prodpool by itself; ``-p`` loads the plugin, which then has its fixture."""
    assert [each for each in entry_points(group="pytest11") if each.value.startswith("prodpool")] == []
    program = (
        "import sys\n"
        "def test_absent():\n    assert not any(name.startswith('prodpool') for name in sys.modules)\n"
        "def test_there(instrumented_pool):\n    assert instrumented_pool().submit(int).result(20) == 0\n"
    )
    without = run_pytest(tmp_path, program, conftest="")
    assert "fixture 'instrumented_pool' not found" in without.stdout
    assert "1 passed, 1 error" in without.stdout
    there = run_pytest(tmp_path, program, "-p", "prodpool.testing.pytest_plugin", "-k", "there", conftest="")
    assert there.returncode == 0, there.stdout + there.stderr
    assert "1 passed" in there.stdout
