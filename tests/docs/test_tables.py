"""The tables that are made by a program say what the code says."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.once


@pytest.mark.parametrize("tool", ["backends_table", "reference_tables"])
def test_it_is_up_to_date(tool: str) -> None:
    """Making it anew would change nothing."""
    command = [sys.executable, "-m", f"tools.{tool}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/reference/backends.md"])
def test_every_backend_is_in_it(page: str) -> None:
    """README and reference have a row for each backend that is known."""
    text = (ROOT / page).read_text()
    backends = ("`prodpool.threads()`", "`ThreadPoolExecutor`", "`ProcessPoolExecutor`", "loky", "dask")
    assert [name for name in backends if f"| {name}" not in text] == []
