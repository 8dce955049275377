"""The checks that the fixtures make for every other test do catch what they are for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tests import support
from tests.support import MAY_STAY, Logs, child_processes, still_there

pytestmark = pytest.mark.once


def test_a_running_thread_is_seen_as_leaked() -> None:
    """A thread that outlives the grace is named; one that ends within it is not."""
    before, release = set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=release.wait, name="left-behind")
    thread.start()
    leaked, _ = still_there(before, child_processes(), grace=0.05)
    assert leaked == [thread]
    release.set()
    assert still_there(before, child_processes()) == ([], [])


def test_the_watchdog_may_stay() -> None:
    """The one thread that all pools share is no leak."""
    before, release = set(threading.enumerate()), threading.Event()
    thread = threading.Thread(target=release.wait, name=MAY_STAY[0])
    thread.start()
    assert still_there(before, child_processes(), grace=0.05) == ([], [])
    release.set()
    thread.join()


def test_a_running_child_is_seen_as_leaked() -> None:
    """A child process that outlives the grace is named by its pid; one that has ended is not."""
    before = child_processes()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child_processes() - before == {child.pid}
        assert still_there(set(threading.enumerate()), before, grace=0.05) == ([], [child.pid])
    assert child_processes() <= before


def test_logs_can_be_waited_for() -> None:
    """`Logs.wait_for` returns the entry that another thread logs, with its fields and level."""
    logs = Logs()
    bound = logs.logger.bind(pool="p")
    thread = threading.Timer(0.02, bound.warning, args=("task.error",), kwargs={"task": "t"})
    thread.start()
    assert logs.wait_for("task.error") == {
        "event": "task.error",
        "pool": "p",
        "task": "t",
        "log_level": "warning",
    }
    thread.join()


def test_logs_that_never_come_are_an_error() -> None:
    """`Logs.wait_for` fails with what was logged instead."""
    logs = Logs()
    logs.logger.info("pool.created")
    with pytest.raises(AssertionError, match=r"pool\.created"):
        logs.wait_for("pool.stopped", timeout=0.01)


@pytest.mark.parametrize(
    ("in_ci", "outcome"),
    [
        pytest.param(True, pytest.fail.Exception, id="ci"),
        pytest.param(False, pytest.skip.Exception, id="elsewhere"),
    ],
)
def test_a_missing_tool(monkeypatch: pytest.MonkeyPatch, in_ci: bool, outcome: type[BaseException]) -> None:
    """A check that lacks its tool fails in CI and is skipped elsewhere; either way it says what to run."""
    monkeypatch.setattr(support, "IN_CI", in_ci)
    with pytest.raises(outcome, match="promtool is missing; run: apt-get install prometheus"):
        support.missing("promtool", "run: apt-get install prometheus")
