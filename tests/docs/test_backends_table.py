"""The table of backends in the README says what the code knows."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.once
def test_it_is_up_to_date() -> None:
    """Making it anew would change nothing."""
    command = [sys.executable, "tools/backends_table.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "| loky |" in (ROOT / "README.md").read_text()
