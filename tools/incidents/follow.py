"""Following the runbook's triage to the letter: the log, the query of signs, the stacks, and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prodpool.monitoring.log_summary import summarise
from prodpool.monitoring.stacks import WaitsFor, waits_in
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage import WAITING_STEP, from_log, from_signs, from_waits, signs_query
from tests.observe.prometheus import Prometheus


@dataclass(frozen=True, slots=True)
class Way:
    """Which headings of the runbook the triage led along, the cause last."""

    headings: tuple[str, ...]

    @property
    def cause(self) -> str:
        """The heading at which it ended."""
        return self.headings[-1]


def follow(prometheus: Prometheus, settings: AlertThresholds, *, job: str, log: Path, pid: int) -> Way:
    """Follow the triage for the pools of one service, which writes ``log`` and runs as process ``pid``."""
    answers = [one.labels for one in prometheus.query(signs_query(settings)) if one.labels["job"] == job]
    pools = {one.labels["pool"] for one in prometheus.query(f'workerpool_info{{job="{job}"}}')}
    with log.open(errors="replace") as lines:
        told = from_log(summarise(lines), pools)
    if told is not None:
        return Way(("Step 0", told))
    led = from_signs(answers)
    if led != WAITING_STEP:
        return Way(("Step 0", "Step 1", led))
    return Way(("Step 0", "Step 1", "Step 2", from_waits(_waits(pid))))


def _waits(pid: int) -> Counter[WaitsFor]:
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if py_spy is None:
        raise SystemExit("py-spy is missing: pip install it")
    dump = subprocess.run(
        [py_spy, "dump", "--pid", str(pid)], check=True, capture_output=True, text=True, timeout=60
    )
    found = Counter[WaitsFor]()
    for wait, count in waits_in(dump.stdout).items():
        found[wait.what] += count
    return found
