"""Write constraints.txt: every package that a development environment holds, with its exact version.

``--check`` tells instead which of the packages installed the oldest Python cannot have, and fails if any.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package of the development environment, pinned. Written by `make constraints`.
"""
# Debian 12 has 3.11.2. Some packages ask for a later patch of 3.11.
OLDEST = "3.11.0"


def too_new() -> list[str]:
    """Return the packages of this environment that the oldest Python cannot have, with what they ask for."""
    found = (one.metadata for one in distributions())
    asked = {one["Name"]: one["Requires-Python"] for one in found if "Requires-Python" in one}
    return sorted(f"{name} {spec}" for name, spec in asked.items() if OLDEST not in SpecifierSet(spec))


def write(target: Path) -> None:
    """Write into ``target`` the newest packages of ``.[dev]`` that the oldest Python can have."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        oldest = ["--python-version", OLDEST, "--only-binary", ":all:", "--target", folder]
        subprocess.run([*pip, *oldest, "--report", str(report), f"{ROOT}[dev]"], check=True)
        packages = [package["metadata"] for package in json.loads(report.read_text())["install"]]
    # One writes its version with a v in front, which says nothing. Source: PEP 440.
    pins = {package["name"]: package["version"].removeprefix("v") for package in packages}
    lines = [f"{name}=={version}" for name, version in pins.items() if name != "prodpool"]
    target.write_text(HEADER + "\n".join(sorted(lines, key=str.lower)) + "\n")


if __name__ == "__main__":
    if sys.argv[1] != "--check":
        write(Path(sys.argv[1]))
    elif found := too_new():
        raise SystemExit(f"pinned, but not for CPython {OLDEST}: {', '.join(found)}")
