"""The committed files are what the table says, whole, and good in the eyes of the tools that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _jsonnet
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as chosen
from hypothesis import strategies as st

from prodpool.monitoring.alerts import ALERTS, GROUPS
from prodpool.monitoring.model import Alert, render
from prodpool.monitoring.prometheus_rules import groups, rule_files
from prodpool.monitoring.runbook import runbook
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.yaml_writer import to_yaml
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS
from tests.support import ROOT, missing

pytestmark = pytest.mark.once

OTHERS = {
    "default": AlertThresholds(),
    "namespace": AlertThresholds(namespace_label="namespace", dwell=10, stall=90, queue_fill=0.5),
    "clusters": AlertThresholds(
        namespace_label="cluster,namespace",
        pools={"mail": {"dwell": 60.0, "drain": 90.0}, "a.b": {"dwell": 10.0, "slo": 0.99}},
    ),
    "scaled": AlertThresholds(window_scale=0.01),
    "smallest": AlertThresholds(window_scale=0.001, slo=0.9999),
}
Tool = Callable[..., str]


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Run a command-line tool on what it is given; return what it prints, or fail with it."""

    def run(name: str, package: str, *args: str) -> str:
        program = shutil.which(name) or missing(name, f"run: apt-get install {package}")
        done = subprocess.run([program, *args], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(params=list(OTHERS.values()), ids=list(OTHERS))
def exported(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Write the alerts for some settings; return the folder."""
    for name, text in rule_files(request.param).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_committed_files_are_those_of_the_table() -> None:
    """`prodpool export` writes what is committed, to the byte; nothing else is there."""
    committed = {path.name: path.read_text() for path in (ROOT / "alerts").iterdir()}
    assert committed == rule_files(AlertThresholds())
    assert (ROOT / "runbook.md").read_text() == runbook(AlertThresholds())


def test_promtool_finds_nothing(exported: Path, tool: Tool) -> None:
    """Rules are valid, templates included, whatever the settings."""
    rules = exported / "prodpool.rules.yml"
    tool("promtool", "prometheus", "check", "rules", "--lint=all", "--lint-fatal", str(rules))


def test_alertmanager_takes_the_routes(exported: Path, tool: Tool) -> None:
    """The Alertmanager file is complete; critical alerts go to the pager, the others to the chat."""
    config = str(exported / "alertmanager.yml")
    tool("amtool", "prometheus-alertmanager", "check-config", config)

    def receiver(*labels: str) -> str:
        words = ("config", "routes", "test", f"--config.file={config}", *labels)
        return tool("amtool", "prometheus-alertmanager", *words).strip()

    assert receiver("component=workerpool", "severity=critical") == "worker-pools-pager"
    assert receiver("component=workerpool", "severity=warning") == "worker-pools-chat"
    assert receiver("severity=critical") == "default"


def test_the_three_forms_hold_the_same_rules(exported: Path) -> None:
    """Rule file, PrometheusRule and mixin do not differ."""
    rules = yaml.safe_load((exported / "prodpool.rules.yml").read_text())
    operator = yaml.safe_load((exported / "prodpool.prometheusrule.yml").read_text())
    assert operator["spec"] == rules
    assert (operator["apiVersion"], operator["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    mixin = f"local m = import '{exported / 'mixin.libsonnet'}'; [m.prometheusAlerts, m.prometheusRules]"
    alerts, records = json.loads(_jsonnet.evaluate_snippet("mixin", mixin))
    in_mixin = [rule for kind in (alerts, records) for group in kind["groups"] for rule in group["rules"]]
    in_file = [rule for group in rules["groups"] for rule in group["rules"]]
    assert sorted(in_mixin, key=lambda rule: json.dumps(rule, sort_keys=True)) == sorted(
        in_file, key=lambda rule: json.dumps(rule, sort_keys=True)
    )
    intervals = {group["name"]: group.get("interval") for group in rules["groups"]}
    for kind in (alerts, records):
        assert {group["name"]: group.get("interval") for group in kind["groups"]}.items() <= intervals.items()


def test_yaml_says_what_was_meant() -> None:
    """PyYAML reads the rules back as they were."""
    assert yaml.safe_load(rule_files(AlertThresholds())["prodpool.rules.yml"]) == {
        "groups": groups(AlertThresholds())
    }


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Co", "Cn"]), max_size=20)
LINES = st.lists(st.from_regex(r"[!-~][ -~]*[!-~]", fullmatch=True), min_size=2, max_size=4).map("\n".join)
WORDS = st.sampled_from(
    ["yes", "No", "on", "null", "~", "1e3", "0x10", "1:30", "5m", "1_0", "-", "a: b", "# c", "", " a", "a "]
)
LEAF = st.one_of(TEXT.filter(lambda text: "\n" not in text), LINES, WORDS, st.integers(), st.booleans())
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.just("key"), inner, max_size=3),
)


@chosen(deadline=None)
@given(st.dictionaries(st.just("key") | WORDS, VALUE, min_size=1, max_size=3))
def test_any_value_is_read_back(value: dict[str, Any]) -> None:
    """Whatever is written, PyYAML reads the same: words that look like something else, text of many lines."""
    assert yaml.safe_load(to_yaml(value, "a comment\n\nof three lines")) == value


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_it_has_to(alert: Alert) -> None:
    """Each alert has severity, summary, description, a link to its page and to the dashboard of its pool."""
    settings = AlertThresholds(
        runbook_url="https://wiki.example/pools", dashboard_url="https://grafana.example/"
    )
    told = alert.annotations(settings)
    assert told["runbook_url"] == f"https://wiki.example/pools#{alert.name.lower()}"
    assert told["dashboard_url"].startswith(f"https://grafana.example/d/{alert.panel.dashboard}?var-job=")
    assert all(told.values())
    assert f"$labels.{'pool' if alert.per_pool else 'instance'}" in told["summary"] + told["description"]
    assert alert.labels()["severity"] in {"critical", "warning", "info"}
    labels = {"job", *(["pool"] if alert.per_pool else []), *(["instance"] if alert.per_process else [])}
    assert set(re.findall(r"\$labels\.(\w+)", "".join(told.values()))) == labels


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_its_panel_is_there(alert: Alert) -> None:
    """The panel that an alert links to is on that dashboard, under that id and title."""
    boards = [json.loads(path.read_text()) for path in (ROOT / "dashboards").glob("*.json")]
    (board,) = (board for board in boards if board["uid"] == alert.panel.dashboard)
    panels = [inner for panel in board["panels"] for inner in (panel, *panel.get("panels", []))]
    titles = {panel["id"]: panel["title"] for panel in panels}
    assert titles.get(alert.panel.id) == alert.panel.title


def test_the_pages_count_them() -> None:
    """The number of alerts that README and guide give is theirs."""
    assert "twenty-nine alerts" in (ROOT / "README.md").read_text()
    assert "Twenty-nine alerts come with the package" in (ROOT / "docs" / "guides" / "alerts.md").read_text()
    assert len(ALERTS) == 29


def test_rules_read_what_is_exported_and_recorded() -> None:
    """Every metric that a rule names is exported or recorded, with labels that it has."""
    exported = {each.name for each in (*COUNTERS, *GAUGES)}
    exported |= {f"{each.name}_{part}" for each in HISTOGRAMS for part in ("bucket", "sum", "count")}
    recorded = {rule.name for group in GROUPS for rule in group.rules if not isinstance(rule, Alert)}
    exprs = [render(rule.expr, AlertThresholds()) for group in GROUPS for rule in group.rules]
    named = {name for expr in exprs for name in re.findall(r"(?:pool:)?workerpool_[a-z0-9_:]+", expr)}
    assert named <= exported | recorded
    assert recorded <= named


def test_the_namespace_label_is_kept(tmp_path: Path) -> None:
    """With a further label, every aggregation, and Alertmanager's grouping, keeps it."""
    settings = AlertThresholds(namespace_label="namespace")
    text = rule_files(settings)["prodpool.rules.yml"]
    assert set(re.findall(r"by \(([^)]*)\)", text)) == {
        "namespace, job, pool", "namespace, job, pool, le", "namespace, job, instance, pool",
        "namespace, job, instance",
    }  # fmt: skip
    routes = yaml.safe_load(rule_files(settings)["alertmanager.yml"])
    assert {tuple(rule["equal"]) for rule in routes["inhibit_rules"]} == {
        ("namespace", "job", "pool"), ("namespace", "job", "instance", "pool"),
    }  # fmt: skip
    assert routes["route"]["routes"][0]["group_by"] == ["namespace", "job"]


def test_one_fault_of_a_job_is_one_notification() -> None:
    """Whatever fires for a job comes together, pools that fail with it included."""
    route = yaml.safe_load(rule_files(AlertThresholds())["alertmanager.yml"])["route"]["routes"][0]
    assert route["group_by"] == ["job"]
    assert all("group_by" not in inner for inner in route["routes"])


def labels_of(alert: Alert) -> dict[str, str]:
    return {"alertname": alert.name, **alert.labels()}


def matches(labels: dict[str, str], matchers: list[str]) -> bool:
    """Tell whether labels satisfy all matchers, as Alertmanager has it."""
    for matcher in matchers:
        name, sign, value = re.fullmatch(r'(\w+)(=~|!~|=)"(.*)"', matcher).groups()  # type: ignore[union-attr]
        there = labels[name] == value if sign == "=" else bool(re.fullmatch(value, labels[name]))
        if there == sign.startswith("!"):
            return False
    return True


def test_what_says_why_holds_back_what_comes_of_it() -> None:
    """Critical alerts hold back the others that name no cause, causes their effects; no two each other."""
    rules = yaml.safe_load(rule_files(AlertThresholds())["alertmanager.yml"])["inhibit_rules"]
    held = {
        (source.name, target.name)
        for source in ALERTS
        for target in ALERTS
        for rule in rules
        if matches(labels_of(source), rule["source_matchers"])
        and matches(labels_of(target), rule["target_matchers"])
    }
    critical = {alert.name for alert in ALERTS if alert.severity == "critical"}
    by_severity = {
        (source, target.name)
        for source in critical
        for target in ALERTS
        if target.name not in critical and not target.names_cause
    }
    by_cause = {(source, target.name) for target in ALERTS for source in target.held_back_by}
    assert held == by_severity | by_cause
    assert ("PoolWorkersHung", "PoolHungTasks") not in held
    assert [pair for pair in held if pair[::-1] in held] == []
