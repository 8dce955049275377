"""The committed dashboards are what their source makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.dashboards.boards import FILES, FOLDER
from tests.support import ROOT

pytestmark = pytest.mark.once


def test_the_files_are_what_the_source_makes(tmp_path: Path) -> None:
    """Made anew, every dashboard is the committed one byte by byte, and there is no other."""
    command = [sys.executable, "-W", "error", "-m", "dashboards.build", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in FOLDER.glob("*.json")}
    assert sorted(made) == sorted(f"{file}.json" for file in FILES)
