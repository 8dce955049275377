"""Replay the incidents against the alerts as they are shipped: ``python -m tools.incidents [FILE]``.

Takes about three quarters of an hour, of which the machine sleeps through most. What was found goes into
FILE, by default the one from which the runbook's history is written; ``make alerts`` then writes the runbook
anew. With ``--only`` what FILE has of the others stays as it is.
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
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from prodpool.monitoring.incident_history import FINDINGS as NAME
from prodpool.monitoring.thresholds import AlertThresholds
from tools.incidents.calm_cases import CALM_CASES
from tools.incidents.replay import Plan, replay
from tools.incidents.scene import Proportions, Scene
from tools.incidents.scenes import SCENES

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = Path(str(files("prodpool.monitoring") / NAME))
BARE_TASKS = 20_000
INTERVAL = 15.0
# As shipped, but for the pool whose tasks are known to take 20 s.
SETTINGS = AlertThresholds(pools={"archive": {"duration": 60.0}})
# Side by side two cores bear all that wait and sleep. A whole core for the tasks that hold the interpreter's
# lock, and the 20 minutes until a third worker has died, come after them.
LATER, MINUTES, MINUTES_LATER = ("churn", "gil_hog", "dying_worker"), 15.0, 22.0


def main(only: list[str], minutes: float | None, target: Path, logs: Path | None) -> None:
    """Replay the incidents and write what was found."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", flush=True)

    found = _replay_all(only, minutes, tell, logs)
    bare = subprocess.run(
        [sys.executable, "-m", "tools.incidents.bare", str(BARE_TASKS)],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    before = json.loads(target.read_text(encoding="utf-8")) if only and target.exists() else {}
    findings = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"prodpool": version("prodpool"), "Prometheus": _prometheus_version()},
        "machine": {
            "cores": os.cpu_count(),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "system": platform.system(),
        },
        "interval": INTERVAL,
        "bare": json.loads(bare.stdout),
        "incidents": _in_order(SCENES, before.get("incidents", {}) | found),
        "calm_cases": _in_order(CALM_CASES, before.get("calm_cases", {}) | found),
    }
    target.write_text(json.dumps(findings, indent=2) + "\n", encoding="utf-8")
    tell(f"{target}; now run: make alerts")


def _replay_all(
    only: list[str], minutes: float | None, tell: Callable[[str], None], logs: Path | None
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for later, lasts in ((False, MINUTES), (True, MINUTES_LATER)):
        kinds = [kind for kind in (*SCENES, *CALM_CASES) if (kind.name in LATER) == later]
        kinds = [kind for kind in kinds if not only or kind.name in only]
        if kinds:
            seconds = 60 * (minutes or lasts)
            plan = Plan(SETTINGS, Proportions(), interval=INTERVAL, calm=60.0, seconds=seconds)
            tell(", ".join(kind.name for kind in kinds))
            # Each Prometheus has a folder of its own.
            folder = logs and logs / ("later" if later else "first")
            if folder:
                folder.mkdir(parents=True)
            found |= replay(plan, kinds, tell, folder)
    return found


def _in_order(kinds: Sequence[type[Scene]], found: Mapping[str, Any]) -> dict[str, Any]:
    return {kind.name: found[kind.name] for kind in kinds if kind.name in found}


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
    parser.add_argument("--minutes", type=float, help="how long each incident lasts (default 15, some 22)")
    names = [kind.name for kind in (*SCENES, *CALM_CASES)]
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help=", ".join(names))
    parser.add_argument("--logs", type=Path, help="new folder that the services' logs stay in")
    chosen = parser.parse_args()
    if unknown := set(chosen.only) - set(names):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    main(chosen.only, chosen.minutes, chosen.file, chosen.logs)
