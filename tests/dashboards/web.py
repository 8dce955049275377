"""What `make web` installs: Grafana's types and UI library, with a Node.js to run them."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support import ROOT, missing

SOURCE = ROOT / "tools" / "web"
# The tests run in a copy of the repository, which this is too large for.
WEB = Path(os.environ.get("PRODPOOL_WEB", ROOT / "build" / "web"))


def installed() -> Path:
    """Return the folder; without it the test fails in CI and is skipped elsewhere."""
    return WEB if (WEB / ".installed").exists() else missing(str(WEB), "run: make web")
