"""Following the runbook's triage to the letter: the log, the query of signs, the stacks, and no more."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage.log_summary import summarise
from prodpool.monitoring.triage.signs import (
    CYCLE,
    LEAK,
    SILENT,
    TOO_SMALL,
    WAITING_STEP,
    from_log,
    from_signs,
    from_waits,
    signs_query,
)
from prodpool.monitoring.triage.stacks import Wait, waits_in
from tests.observe.prometheus import Prometheus

# The heading of the runbook at which the triage has to end, by the cause.
LEADS_TO = {
    "hung call": SILENT,
    "slow dependency": "PoolSlowdown",
    "worker churn": "PoolChurning",
    "slower tasks": "PoolSlowdown",
    "connection pool too small": TOO_SMALL,
    "cycle of pools": CYCLE,
    "starvation": "PoolStarved",
    "retry storm": "PoolRetryStorm",
    "dying workers": "PoolWorkersDying",
    "leaked resource": LEAK,
}


def follow(prometheus: Prometheus, settings: AlertThresholds, *, job: str, log: Path, pid: int) -> list[str]:
    """Follow the triage for the pools of one service, which writes ``log`` and runs as process ``pid``.

    Returns:
        The steps taken, and at the end the heading that it led to.
    """
    answers = [one.labels for one in prometheus.query(signs_query(settings)) if one.labels["job"] == job]
    pools = {one.labels["pool"] for one in prometheus.query(f'workerpool_info{{job="{job}"}}')}
    with log.open(errors="replace") as lines:
        told = from_log(summarise(lines), pools)
    way = ["Step 0"] if told else ["Step 0", "Step 1"]
    led = told or from_signs(answers)
    return [*way, led] if led != WAITING_STEP else [*way, "Step 2", from_waits(_waits(pid))]


def _waits(pid: int) -> Counter[Wait]:
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent))
    if py_spy is None:
        raise SystemExit("py-spy is missing: pip install it")
    dump = subprocess.run(
        [py_spy, "dump", "--subprocesses", "--pid", str(pid)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return waits_in(dump.stdout)
