"""Pools misbehave, a real Prometheus sees it, a real Alertmanager tells a webhook; and that it is over."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.alerts.rig import OPTIONS, Alertmanager, Receiver
from tests.observe.child import LOOPBACK, Child
from tests.observe.prometheus import Prometheus
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAM = Path(__file__).parent / "programs" / "misbehaving.py"
JOB = "shop & co"  # to be quoted in an address
INTERVAL = 0.2
# Pool and alert that somebody has to be told of, and of its end.
WANTED = {
    ("growing", "PoolQueueGrowing"),
    ("stopped", "PoolStopped"),
    ("panicking", "PoolPanicRate"),
    ("dropping", "PoolDropping"),
    ("slow", "PoolSlowTasks"),
    ("burning", "PoolErrorBudgetBurn1h"),
    ("burning", "PoolErrorBudgetBurn6h"),
    ("stalled", "PoolStalled"),
    ("crowded", "PoolQueueSaturated"),
    ("filling_up", "PoolQueueFillingUp"),
    ("crowded", "PoolDwellHigh"),
    ("crowded", "PoolWorkersSaturated"),
    ("hung", "PoolHungTasks"),
    ("breaker_open", "PoolBreakerOpen"),
    ("flapping", "PoolBreakerFlapping"),
    ("rebuilding", "PoolBackendRebuilding"),
    ("losing", "PoolShutdownLostTasks"),
    ("vanishing", "PoolMetricsAbsent"),
}
# Their short windows alone are longer than anybody wants to wait for a test: `promtool` proves them.
TOO_LONG = {"PoolErrorBudgetBurn1d", "PoolErrorBudgetBurn3d"}
# Fires beside a critical alert of the same pool, and is held back.
HELD_BACK = ("stalled", "PoolHungTasks")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the alerts with windows of a hundredth."""
    folder = tmp_path_factory.mktemp("alerts")
    for name, text in render_files("alerts", AlertThresholds(**OPTIONS)).items():  # type: ignore[arg-type]
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def story(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Have everything go wrong and recover, in about a minute; return who was told what."""
    folder = tmp_path_factory.mktemp("story")
    with (
        Receiver() as receiver,
        Alertmanager(folder, exported / "alertmanager.yml", receiver.url) as alertmanager,
        Child([sys.executable, str(PROGRAM)], folder / "program.log") as program,
    ):
        port = program.wait_for(r"PORT (\d+)")[1]
        target = f"{LOOPBACK}:{port}"
        rules = [exported / "prodpool.rules.yml"]
        with Prometheus(
            folder, {JOB: [target]}, rule_files=rules, alertmanager=alertmanager.address, interval=INTERVAL
        ) as prometheus:
            receiver.wait_for("firing", WANTED, timeout=90)
            prometheus.wait_for('ALERTS{alertname="PoolHungTasks", pool="stalled", alertstate="firing"}')
            firing = receiver.told("firing")
            os.kill(program.pid, signal.SIGUSR1)
            receiver.wait_for("resolved", WANTED, timeout=90)
            yield {
                "firing": firing,
                "target": target,
                "prometheus": prometheus,
                "receiver": receiver,
            }


@pytest.mark.long
def test_every_alert_is_told_and_resolved(story: dict[str, Any]) -> None:
    """Somebody was told of every alert, at once or never later than that it was over."""
    assert {name for _, name in WANTED} | TOO_LONG == {alert.name for alert in ALERTS}
    assert set(story["firing"]) >= WANTED
    assert set(story["receiver"].told("resolved")) >= WANTED


@pytest.mark.long
def test_the_healthy_pool_is_never_mentioned(story: dict[str, Any]) -> None:
    """Of a pool that is well nobody is told anything, in the midst of all that."""
    assert not any(pool == "healthy" for pool, _ in story["receiver"].told("firing"))


@pytest.mark.long
def test_a_critical_alert_holds_the_others_of_its_pool_back(story: dict[str, Any]) -> None:
    """Of the warning beside a critical alert of the same pool nobody was told while that fired."""
    assert HELD_BACK not in story["firing"]
    assert ("stalled", "PoolStalled") in story["firing"]


@pytest.mark.long
def test_what_is_told_is_whole(story: dict[str, Any]) -> None:
    """Sentences and addresses are filled in, quoted where they must be, and lead to the alert's page."""
    page = (ROOT / "runbook.md").read_text()
    for (pool, name), alert in story["firing"].items():
        told = alert["annotations"]
        assert pool in told["summary"]
        assert JOB in told["description"] or "$" not in told["description"]
        assert not re.search(r"<error|<no value>|\{\{|%!", " ".join(told.values())), told
        assert told["runbook_url"] == f"https://wiki.example/pools#{name.lower()}"
        assert f"\n### {name}\n" in page
        address = told["dashboard_url"]
        assert address.startswith("https://grafana.example/d/prodpool-")
        assert "var-job=shop+%26+co" in address
        assert f"var-pool={pool}" in address
        if "instance" in alert["labels"]:
            assert f"var-instance={story['target'].replace(':', '%3A')}" in address


@pytest.mark.long
def test_no_rule_fails(story: dict[str, Any]) -> None:
    """Every rule was evaluated, and none had an error."""
    for rule in story["prometheus"].rules():
        assert rule["health"] == "ok", rule
