"""Write constraints.txt: every package that a development environment holds, with its exact version."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package of the development environment, pinned. Written by `make constraints`.
"""


def main(target: Path) -> None:
    """Install ``.[dev]`` unpinned into a fresh environment and freeze it into ``target``."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-qq", f"{ROOT}[dev]"], check=True)
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    # `freeze` also lists prodpool itself, as a file of this machine.
    pins = [line for line in frozen.splitlines() if "==" in line]
    target.write_text(HEADER + "\n".join(sorted(pins, key=str.lower)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
