"""One pool may have thresholds of its own: who fires then, and how that is told and read."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from prodpool.cli import main
from prodpool.monitoring.alerts import GROUPS
from prodpool.monitoring.prometheus_rules import groups
from prodpool.monitoring.thresholds import PER_POOL, AlertThresholds
from tests.alerts.synthetic import Pool, Story
from tests.alerts.test_export import refused

pytestmark = pytest.mark.once

# One in ten waits for 30 to 60 seconds: the 95th percentile is 45 s.
LATE = {"0.01": 1.0, "0.25": 1.0, "1.0": 1.0, "5.0": 1.0, "10.0": 1.0, "30.0": 0.1}


def firing(
    promtool: str,
    folder: Path,
    args: list[str],
    pools: list[Pool],
    *,
    minutes: int,
    expected: list[tuple[str, str, str]],
) -> None:
    """Export rules and have promtool see what fires: the alert, what its cluster is written as, the pool."""
    assert main(["export", "alerts", str(folder / "rules"), *args]) == 0
    series = [one for pool in pools for one in pool.series(minutes + 1, 0.5)]
    test = {
        "rule_files": [str(folder / "rules" / "prodpool.rules.yml")],
        "evaluation_interval": "30s",
        "group_eval_order": [group.name for group in GROUPS],
        "tests": [
            {
                "interval": "30s",
                "input_series": series,
                "promql_expr_test": [
                    {
                        "expr": 'count by (alertname, cluster, pool) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{minutes}m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{alert}"{cluster}, pool="{pool}"}}', "value": 1}
                            for alert, cluster, pool in sorted(expected)
                        ],
                    }
                ],
            }
        ],
    }
    (folder / "test.yml").write_text(json.dumps(test))  # JSON is YAML, too
    done = subprocess.run(
        [promtool, "test", "rules", str(folder / "test.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules_of(settings: AlertThresholds) -> dict[str, list[dict[str, Any]]]:
    """Return the alerting rules by the alert's name."""
    found: dict[str, list[dict[str, Any]]] = {}
    plain: Any = groups(settings)
    for rule in (rule for group in plain for rule in group["rules"] if "alert" in rule):
        found.setdefault(rule["alert"], []).append(rule)
    return found


def test_a_pool_may_be_slower_than_the_others(promtool: str, tmp_path: Path) -> None:
    """With `--pool mail:dwell=60`, 45 seconds are fine for mail, and too many for any other pool."""
    late = [Pool(name=name, dwell=LATE) for name in ("mail", "images", "mails")]
    expected = [("PoolDwellHigh", "", "images"), ("PoolDwellHigh", "", "mails")]
    firing(promtool, tmp_path, ["--pool", "mail:dwell=60"], late, minutes=17, expected=expected)


def test_a_pool_may_be_watched_more_closely(promtool: str, tmp_path: Path) -> None:
    """A value below the one of the others makes the alert fire for that pool alone, under the same name."""
    late = [Pool(name=name, dwell=LATE) for name in ("a.b", "mail", "images")]
    # Whose name a.b would match if the point were not escaped.
    late.append(Pool(name="aXb", dwell={**LATE, "60.0": 0.1}))
    args = ["--dwell", "60", "--pool", "a.b:dwell=30", "--pool", "images:dwell=30"]
    expected = [("PoolDwellHigh", "", name) for name in ("a.b", "aXb", "images")]
    firing(promtool, tmp_path, args, late, minutes=17, expected=expected)


def test_a_pool_may_have_an_objective_of_its_own(promtool: str, tmp_path: Path) -> None:
    """A tenth of the tasks failing burns the budget of 0.5 %, and not yet that of 2 %."""
    failing: dict[str, Story] = {'completed_total{result="error"}': [(45.0, 6.0)]}
    pools = [Pool(name=name, counters_alone=True, counters=failing) for name in ("mail", "images")]
    args = ["--pool", "images:slo=0.98"]
    # In six hours' windows, of which there is one hour, 10 % burns 0.5 % six times too fast, and not 2 %.
    expected = [("PoolErrorBudgetBurn1h", "", "mail"), ("PoolErrorBudgetBurn6h", "", "mail")]
    firing(promtool, tmp_path, args, pools, minutes=40, expected=expected)


def test_a_healthy_cluster_does_not_hide_another(promtool: str, tmp_path: Path) -> None:
    """Where one of two clusters loses 40 % of its tasks, alerts fire, for that one alone."""
    lossy: dict[str, Story] = {
        "submitted_total": [(45.0, 36.0)],
        'completed_total{result="ok"}': [(45.0, 36.0)],
        'dropped_total{reason="full"}': [(45.0, 24.0)],
    }
    pools = [
        Pool(name="mail", counters=lossy, labels={"cluster": "eu", "namespace": "shop"}),
        # The same job, instance and pool: nothing but the label keeps them apart.
        Pool(name="mail", per_minute=6000, labels={"cluster": "us", "namespace": "shop"}),
    ]
    args = ["--namespace-label", "cluster", "--namespace-label", "namespace", "--drop-rate", "0.1"]
    names = ("PoolDropping", "PoolErrorBudgetBurn1h", "PoolErrorBudgetBurn6h")
    expected = [(name, ', cluster="eu"', "mail") for name in names]
    firing(promtool, tmp_path, args, pools, minutes=40, expected=expected)


@pytest.mark.parametrize(
    ("own", "doubled"),
    [
        ({"dwell": 60.0}, {"PoolDwellHigh"}),
        ({"oldest_queued": 3600.0}, {"PoolOldestQueued", "PoolOldestQueuedCritical"}),
        ({"duration": 30.0}, {"PoolSlowTasks"}),
        ({"queue_depth": 7}, {"PoolQueueGrowing"}),
        ({"queue_fill": 0.6}, {"PoolQueueSaturated", "PoolQueueFillingUp", "PoolQueueGrowing"}),
        ({"utilisation": 0.5}, {"PoolWorkersSaturated"}),
        ({"panic_rate": 1}, {"PoolPanicRate"}),
        ({"drop_rate": 1}, {"PoolDropping"}),
        ({"stall": 900}, {"PoolStalled"}),
        ({"drain": 900}, {"PoolStopped"}),
        ({"slo": 0.99}, {f"PoolErrorBudgetBurn{window}" for window in ("1h", "6h", "1d", "3d")}),
        ({"slo_min_tasks": 5}, {f"PoolErrorBudgetBurn{window}" for window in ("1h", "6h", "1d", "3d")}),
        ({"dwell": 30.0, "slo": 0.995}, set()),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_only_what_uses_a_threshold_is_doubled(own: dict[str, float], doubled: set[str]) -> None:
    """All other rules, and every rule where the pool has the common values, are those of the default."""
    common, found = rules_of(AlertThresholds()), rules_of(AlertThresholds(pools={"mail": own}))
    assert {name for name, rules in found.items() if rules != common[name]} == doubled
    for name in doubled:
        rest, mail = found[name]
        (before,) = common[name]
        assert rest["expr"].count('pool!="mail"') == mail["expr"].count('pool="mail"') > 0
        assert (
            mail["expr"].replace('pool="mail"', 'pool!="mail"') != rest["expr"] or mail["for"] != rest["for"]
        )
        assert rest | {"expr": before["expr"]} == before
        assert mail["labels"] == {**before["labels"], "pool": "mail"}


def test_every_threshold_of_a_pool_is_tried() -> None:
    """The cases of the test before are all that a pool may have a value of its own for."""
    (mark,) = (
        each
        for each in test_only_what_uses_a_threshold_is_doubled.pytestmark  # type: ignore[attr-defined]
        if each.name == "parametrize"
    )
    assert {name for own, _ in mark.args[1] for name in own} == set(PER_POOL)


def test_the_exported_rules_pass_promtool(promtool: str, tmp_path: Path) -> None:
    """Rules of one name are no duplicates, and names with dots and colons in them are escaped."""
    args = [f"--pool={name}:dwell=60,slo=0.99,drain=90" for name in ("mail", "a.b", "host:1/x@y-z")]
    assert main(["export", "alerts", str(tmp_path), *args, "--namespace-label", "cluster,namespace"]) == 0
    rules = tmp_path / "prodpool.rules.yml"
    command = [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(rules)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        r'pool!~"a\\.b|host:1/x@y-z|mail"'
        in yaml.safe_load(rules.read_text())["groups"][0]["rules"][1]["expr"]
    )


def test_the_alerts_name_the_cluster(tmp_path: Path) -> None:
    """Description and dashboard link, grouping and inhibition have every label."""
    assert main(["export", "alerts", str(tmp_path), "--namespace-label", "cluster,namespace"]) == 0
    rules = yaml.safe_load((tmp_path / "prodpool.rules.yml").read_text())["groups"]
    for rule in (rule for group in rules for rule in group["rules"] if "alert" in rule):
        told = rule["annotations"]
        assert "of {{ $labels.job }} ({{ $labels.cluster }}, {{ $labels.namespace }})" in told["description"]
        query = told["dashboard_url"].partition("?")[2].split("&")
        assert query[:3] == [
            f"var-{label}={{{{ $labels.{label} | urlquery }}}}" for label in ("cluster", "namespace", "job")
        ]
    routes = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    labels = ["cluster", "namespace", "job"]
    assert routes["route"]["routes"][0]["group_by"] == labels
    assert all({*labels, "pool"} <= {*rule["equal"]} for rule in routes["inhibit_rules"])


def test_the_runbook_tells_both(tmp_path: Path) -> None:
    """Sentences name the pool with its own value, and its rule is shown; queries have every label."""
    args = ["--pool", "mail:dwell=60,slo=0.99,drain=120", "--namespace-label=cluster"]
    assert main(["export", "runbook", str(tmp_path), *args]) == 0
    page = (tmp_path / "runbook.md").read_text()
    for said in (
        "One task in twenty waits for more than 30 seconds (`mail`: 1 minute) before it starts.",
        "wait for more than 30 seconds (`mail`: 1 minute) |",
        "More than 7.2 % (`mail`: 14.4 %) of what",
        "once it has held for 1 minute (`mail`: once it has held for 2 minutes);",
        "More than 1000 tasks wait",
        "For `mail`:\n\n```promql\nhistogram_quantile(\n  0.95, sum by (cluster, job, pool, le) (",
        '(rate(workerpool_queue_dwell_seconds_bucket{pool="mail"}[5m]))\n) > 60\n```',
        "count by (cluster, alertname, severity, pool) (ALERTS",
        "`by (cluster, job, instance, pool)`",
    ):  # fmt: skip
        assert said in page, said
    lists = re.findall(r"\bby \(([^)]*)\)", page)
    assert [each for each in lists if each.split(", ")[0] != "cluster"] == []


def test_a_file_says_the_same(tmp_path: Path) -> None:
    """A TOML file and options write the same, together and with either spelling of a threshold."""
    file = tmp_path / "pools.toml"
    file.write_text('[mail]\ndwell = 60\nqueue-depth = 7\n["a.b"]\nslo = 0.99\n')
    told = ["--pool", "mail:dwell=60", "--pool=mail:queue_depth=7,dwell=60.0", "--pool", "a.b:slo=0.99"]
    for name, args in (
        ("file", [f"--pools={file}"]),
        ("options", told),
        ("both", [f"--pools={file}", *told]),
    ):
        assert main(["export", "all", str(tmp_path / name), *args]) == 0
    for path in (tmp_path / "file" / "alerts").iterdir():
        assert path.read_text() == (tmp_path / "options" / "alerts" / path.name).read_text()
        assert path.read_text() == (tmp_path / "both" / "alerts" / path.name).read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--pool", "mail"], "--pool mail: pass NAME:THRESHOLD=VALUE, such as mail:dwell=60"),
        (["--pool", "dwell=60"], "--pool dwell=60: pass NAME:THRESHOLD=VALUE"),
        (["--pool", "mail:dwell"], "--pool mail:dwell: pass NAME:THRESHOLD=VALUE"),
        (["--pool", "mail:dwel=60"], "--pool mail:dwel=60: a pool may have a value of its own for slo, "),
        (["--pool", "mail:runbook_url=x"], "--pool mail:runbook_url=x: a pool may have a value of its own"),
        (["--pool", "mail:dwell=long"], "--pool mail:dwell=long: pass a number"),
        (["--pool", "mail:slo-min-tasks=1.5"], "--pool mail:slo-min-tasks=1.5: pass a whole number"),
        (["--pool", "mail:dwell=20"], "--pool mail:dwell=20.0: a quantile is told apart only at the bounds"),
        (["--pool", "mail:duration=30,stall=0"], "--pool mail:stall=0.0: pass a number of seconds of 1"),
        (["--pool", "mail:slo=0.9"], "--pool mail:slo=0.9: 14.4 times the budget would be 1.44"),
        (["--pool", "ma|il:dwell=60"], "--pool ma|il: name='ma|il' cannot be a pool's name"),
        (
            ["--pool", "mail:dwell=60", "--pool", "mail:duration=30,dwell=10"],
            "--pool mail:dwell=10: pool mail has dwell 60.0 already: pass it once",
        ),
        (
            ["--pools", "none.toml"],
            "--pools none.toml: No such file or directory: pass a file that can be read",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused(
    args: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option, the pool, the threshold and its value, and says what would do."""
    assert says in refused(capsys, "alerts", str(tmp_path / "out"), *args)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dwell = 60", "pools.toml: dwell: write a table for each pool, such as [mail]"),
        ("[mail]\ndwell = '60'", "pools.toml: mail: dwell: write a number, such as dwell = 60"),
        ("[mail]\ndwell = true", "pools.toml: mail: dwell: write a number"),
        ("[mail]\ndwel = 60", "pools.toml: mail: dwel: a pool may have a value of its own for slo"),
        ("[mail]\ndwell = nan", "--pool mail:dwell=nan: a quantile"),
        ("[mail", "pools.toml: this is not TOML: "),
        ("[mail]\ndrain = 10", "--pool mail:drain=9: pool mail has drain 10.0 already"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_work_is_refused(
    text: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file, the pool and the threshold."""
    file = tmp_path / "pools.toml"
    file.write_text(text)
    told = refused(capsys, "alerts", str(tmp_path / "out"), "--pools", str(file), "--pool", "mail:drain=9")
    assert says in told
