"""Each alert fires when it should and alone, and comes not of what is near: by Prometheus's own test tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prodpool.monitoring.alerts import ALERTS, GROUPS
from tests.alerts.cases import CASES, QUARTER, Case
from tests.alerts.synthetic import Pool
from tests.support import ROOT

pytestmark = pytest.mark.once

RULES = ROOT / "alerts" / "prodpool.rules.yml"
FIRING = 'count by (alertname, pool) (ALERTS{alertstate="firing"})'
# Beside the ill pool: nothing may ever fire for this one.
BYSTANDER = Pool(name="mail", instance="z:1")


def as_test(case: Case) -> dict[str, Any]:
    """Return a case as `promtool` wants it."""
    minutes = case.at + 2 * case.step
    pools = (*case.pools, BYSTANDER.with_(counters_alone=case.pools[0].counters_alone))
    step = f"{round(case.step * 60)}s"
    return {
        "name": case.name,
        "interval": step,
        "input_series": [one for pool in pools for one in pool.series(minutes, case.step)],
        "promql_expr_test": [
            {
                "expr": FIRING,
                "eval_time": f"{round(case.at * 60)}s",
                "exp_samples": [{"labels": case.labels(alert), "value": 1} for alert in sorted(case.fires)],
            }
        ],
    }


def run(promtool: str, folder: Path, rules: Path, *cases: Case) -> subprocess.CompletedProcess[str]:
    """Have `promtool` judge some cases, all of the same step."""
    file = folder / "test.yml"
    # Not in step with the scrapes, as in life: increase() extrapolates to the ends of its window.
    step = "20s" if cases[0].step == QUARTER else f"{round(cases[0].step * 60)}s"
    tests = {
        "rule_files": [str(rules)],
        "evaluation_interval": step,
        # Else `promtool` takes them in any order, and what another group records may not be there yet.
        "group_eval_order": [group.name for group in GROUPS],
        "tests": [as_test(case) for case in cases],
    }
    file.write_text(json.dumps(tests))  # JSON is YAML, too
    return subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_fires(case: Case, promtool: str, tmp_path: Path) -> None:
    """At the moment named exactly the alerts named fire, for the pool that is ill and for no other."""
    done = run(promtool, tmp_path, RULES, case)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_its_cases() -> None:
    """No alert is without a case in which it fires, and one in which it nearly does."""
    fired = {alert for case in CASES if "-near-miss-" not in case.name for alert in case.fires}
    missed = {case.name.split("-near-miss-")[0] for case in CASES if "-near-miss-" in case.name}
    assert fired == missed == {alert.name for alert in ALERTS}
