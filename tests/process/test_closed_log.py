"""The end of a process whose log is closed by then, as a test runner's is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.parametrize("log", ["stdlib", "structlog"])
def test_a_closed_log_is_no_error(log: str) -> None:
    """A pool that drains at exit does its work, and writes nothing about lines that it cannot write."""
    program = ROOT / "tests" / "process" / "programs" / "closed_log.py"
    done = subprocess.run(
        [sys.executable, program, log], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
