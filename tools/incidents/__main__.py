"""Replay three incidents against the alerts as they are shipped: ``python -m tools.incidents [FILE]``.

Takes about a quarter of an hour, of which the machine sleeps through most. What was found goes into FILE, by
default the one from which the runbook's history is written; ``make alerts`` then writes the runbook anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from prodpool.monitoring.thresholds import AlertThresholds
from tools.incidents.replay import Plan, replay
from tools.incidents.scenes import Proportions

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "prodpool" / "bundle" / "incidents.json"
BARE_TASKS = 20_000


def main(minutes: float, target: Path) -> None:
    """Replay the incidents for ``minutes`` and write what was found."""
    plan = Plan(AlertThresholds(), Proportions(), interval=15.0, calm=60.0, seconds=60 * minutes)
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", flush=True)

    bare = subprocess.run(
        [sys.executable, "-m", "tools.incidents.bare", str(BARE_TASKS)],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    findings = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"prodpool": version("prodpool"), "Prometheus": _prometheus_version()},
        "machine": {
            "cores": os.cpu_count(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": platform.system(),
        },
        "interval": plan.interval,
        "bare": json.loads(bare.stdout),
        "incidents": replay(plan, tell),
    }
    target.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")
    tell(f"{target}; now run: make alerts")


def _prometheus_version() -> str:
    program = shutil.which("prometheus")
    if program is None:
        raise SystemExit("prometheus is missing: run apt-get install prometheus")
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True, timeout=30)
    found = re.search(r"version (\S+)", said.stdout + said.stderr)
    return found[1] if found else "unknown"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?", type=Path, default=FINDINGS)
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="how long the incidents last (default 15)"
    )
    chosen = parser.parse_args()
    main(chosen.minutes, chosen.file)
