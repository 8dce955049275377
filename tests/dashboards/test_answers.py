"""What a dashboard's expression makes of series that a test writes down, by Prometheus's own test tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.dashboards.boards import View, asked

pytestmark = pytest.mark.once

TARGET = 'job="shop", instance="a:1", pool="mail"'
OTHER = 'job="shop", instance="b:1", pool="mail"'


def expression(panel: int, refers: str, view: View) -> str:
    """Return an expression of the dashboard on one pool, with the variables filled in."""
    (one,) = (one for one in asked("pool") if one.place == panel and one.title.endswith(f"-{refers}"))
    return view.expand("pool", one.expr)


def judge(
    promtool: str, folder: Path, series: dict[str, str], expr: str, samples: list[dict[str, Any]]
) -> str:
    """Have `promtool` compare what an expression yields after a minute; return its complaint, if any."""
    file = folder / "test.yml"
    case = {
        "interval": "10s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": "1m", "exp_samples": samples}],
    }
    file.write_text(json.dumps({"rule_files": [], "tests": [case]}))  # JSON is YAML, too
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=30, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_settings_that_are_gone_are_not_shown(promtool: str, tmp_path: Path) -> None:
    """A setting of 0 is shown, one that multiprocess mode left behind is not; a disagreement is two rows."""
    series = {
        f"workerpool_info{{{TARGET}}}": "1x6",
        f"workerpool_info{{{OTHER}}}": "1x6",
        f'workerpool_config{{{TARGET}, knob="drain_deadline"}}': "0x6",
        f'workerpool_config{{{OTHER}, knob="drain_deadline"}}': "0x6",
        f'workerpool_config{{{TARGET}, knob="max_workers"}}': "8x6",
        f'workerpool_config{{{OTHER}, knob="max_workers"}}': "4x6",
        # The pool that blocked was replaced by one that rejects.
        f'workerpool_config{{{TARGET}, knob="overload:block"}}': "0x6",
        f'workerpool_config{{{TARGET}, knob="overload:reject"}}': "1x6",
        # All processes of this one have ended.
        'workerpool_info{job="shop", instance="c:1", pool="mail"}': "0x6",
        'workerpool_config{job="shop", instance="c:1", pool="mail", knob="max_workers"}': "0x6",
    }
    rows = [
        ("drain_deadline", "0", 2),
        ("max_workers", "4", 1),
        ("max_workers", "8", 1),
        ("overload:reject", "1", 1),
    ]
    samples = [
        {"labels": f'{{knob="{knob}", setting="{setting}"}}', "value": count} for knob, setting, count in rows
    ]
    expr = expression(91, "A", View(chosen={"pool": "mail"}))
    assert judge(promtool, tmp_path, series, expr, samples) == ""


def test_a_canary_is_compared_by_the_label_it_bears(promtool: str, tmp_path: Path) -> None:
    """With a label of the targets in "Compare by", there is one line for each of its values."""
    stable, canary = f'{TARGET}, version="1"', f'{OTHER}, version="2"'
    series = {
        f"workerpool_offered_total{{{stable}}}": "0+100x6",
        f"workerpool_offered_total{{{canary}}}": "0+10x6",
        f'workerpool_completed_total{{{stable}, result="error"}}': "0+1x6",
        f'workerpool_completed_total{{{canary}, result="error"}}': "0+5x6",
        f'workerpool_completed_total{{{canary}, result="ok"}}': "0+5x6",
        f"workerpool_task_duration_seconds_sum{{{stable}}}": "0+20x6",
        f"workerpool_task_duration_seconds_count{{{stable}}}": "0+100x6",
        f"workerpool_task_duration_seconds_sum{{{canary}}}": "0+5x6",
        f"workerpool_task_duration_seconds_count{{{canary}}}": "0+10x6",
    }
    view = View(chosen={"pool": "mail", "compare": "version"}, scrape=10)
    for panel, of_stable, of_canary in ((81, 0.01, 0.5), (82, 10, 1), (83, 0.2, 0.5)):
        samples = [
            {"labels": '{version="1"}', "value": of_stable},
            {"labels": '{version="2"}', "value": of_canary},
        ]
        assert judge(promtool, tmp_path, series, expression(panel, "A", view), samples) == ""
