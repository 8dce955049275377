"""What a submit is told once the main thread has ended."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process.children import PROGRAMS, TOO_LONG


@pytest.mark.parametrize("backend", ["executor", "threads"])
def test_submit_after_the_main_thread(backend: str) -> None:
    """It is told that the interpreter is exiting and what to do, not to build a new pool."""
    command = [sys.executable, str(PROGRAMS / "late.py"), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TOO_LONG)
    first, *refusals = done.stdout.splitlines()
    assert (first, len(refusals), done.stderr) == ("8", 2, "")
    for pool, said in zip(["used", "unused"], refusals, strict=True):
        assert said.startswith(f"pool {pool!r} is closed: the interpreter is exiting")
        assert "build a new one" not in said
