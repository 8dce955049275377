"""A pool in a forked child starts anew or says why not, never hangs there, and leaves the parent's alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process.children import PROGRAMS

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits with pidfd_open"),
    pytest.mark.timeout(180),
]


@pytest.mark.parametrize(
    "way",
    [
        pytest.param("inherited", id="executor"),
        pytest.param("inherited_threads", id="threads"),
        pytest.param("inherited_processes", id="processes"),
        pytest.param("inherited_factory", id="factory"),
        pytest.param("stopped", id="stopped-before"),
        pytest.param("unused", id="unused"),
        pytest.param("unused_in_c", id="unused-forked-in-c"),
        pytest.param("used_in_c", id="used-forked-in-c"),
        pytest.param("around_a_fork_in_c", id="around-a-fork-in-c"),
        pytest.param("started_elsewhere", id="backend-started-elsewhere"),
        pytest.param("by_an_earlier_hook", id="used-by-an-earlier-hook"),
        pytest.param("odd_factories", id="odd-factories"),
        pytest.param("every_lock_executor", id="locks-held-executor"),
        pytest.param("every_lock_threads", id="locks-held-threads"),
        pytest.param("every_lock_processes", id="locks-held-processes"),
        pytest.param("every_lock_factory", id="locks-held-factory"),
        pytest.param("from_a_task", id="forked-from-a-task"),
        pytest.param("to_the_end", id="ends-as-an-interpreter"),
        pytest.param("to_the_end_processes", id="ends-as-multiprocessing-does"),
        pytest.param("daemonic", id="of-a-daemonic-process"),
        pytest.param("half_read", id="lets-go-of-a-map"),
        pytest.param("hammered", id="200-forks", marks=pytest.mark.slow),
        pytest.param("busy", id="200-forks-busy", marks=pytest.mark.slow),
    ],
)
def test_fork(way: str) -> None:
    """The program forks, and its children, as `forking.py` describes; it says on stderr what went wrong."""
    command = [sys.executable, str(PROGRAMS / "forking.py"), way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    if (done.stderr, done.returncode) != ("", 0):
        pytest.fail(f"status {done.returncode}\n{done.stderr}", pytrace=False)
