"""The tables that are made by a program say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import prodpool
import prodpool.opentelemetry
import prodpool.testing
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


def test_every_environment_variable_is_in_the_reference() -> None:
    """Each variable that a module which reads the environment names has its row, and no other has."""
    assert prodpool.__file__ is not None
    texts = [path.read_text() for path in Path(prodpool.__file__).parent.rglob("*.py")]
    read = {
        name for text in texts if "os.environ" in text for name in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)
    }
    rows = re.findall(
        r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "reference" / "settings.md").read_text(), re.MULTILINE
    )
    assert set(rows) == read


def test_every_public_name_is_in_the_reference() -> None:
    """The API page has an entry for each name of the public modules, and for nothing else.

    Those of the integrations are looked for when the site is built, since that needs the frameworks.
    """
    page = (ROOT / "docs" / "reference" / "api.md").read_text()
    entries = re.findall(r"^\.\. \w+:: (prodpool(?!\.integrations\.)[.\w]+)", page, re.MULTILINE)
    public = {
        f"{module.__name__}.{name}"
        for module in (prodpool, prodpool.opentelemetry, prodpool.testing)
        for name in module.__all__
    }
    assert sorted(entries) == sorted({*public, "prodpool.__version__"})
