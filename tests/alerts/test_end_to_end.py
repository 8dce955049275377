"""Pools misbehave, a real Prometheus sees it, a real Alertmanager tells a webhook; and that it is over."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.alerts.rig import OPTIONS, Alertmanager, Receiver
from tests.observe.child import LOOPBACK, Child
from tests.observe.prometheus import Prometheus
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAMS = Path(__file__).parent / "programs"
JOB = "shop & co"  # to be quoted in an address
STARVING = "starving"
INTERVAL = 0.2
# Pool and alert that somebody has to be told of, and of its end.
WANTED = {
    ("growing", "PoolQueueGrowing"),
    ("stopped", "PoolStopped"),
    ("panicking", "PoolPanicRate"),
    ("dropping", "PoolDropping"),
    ("slow", "PoolSlowTasks"),
    ("burning", "PoolErrorBudgetBurn1h"),
    ("burning_slowly", "PoolErrorBudgetBurn6h"),
    ("stalled", "PoolStalled"),
    ("crowded", "PoolOldestQueued"),
    ("crawling", "PoolOldestQueuedCritical"),
    ("crowded", "PoolQueueSaturated"),
    ("filling_up", "PoolQueueFillingUp"),
    ("bursts", "PoolDwellHigh"),
    ("crowded", "PoolWorkersSaturated"),
    ("hung", "PoolHungTasks"),
    ("all_hung", "PoolHungTasks"),  # which no critical alert holds back
    ("all_hung", "PoolWorkersHung"),
    ("churning", "PoolChurning"),
    ("breaker_open", "PoolBreakerOpen"),
    ("flapping", "PoolBreakerFlapping"),
    ("rebuilding", "PoolBackendRebuilding"),
    ("losing", "PoolShutdownLostTasks"),
    ("vanishing", "PoolMetricsAbsent"),
}
# Told of a process as a whole.
OF_PROCESSES = {(STARVING, "PoolStarved"), (STARVING, "PoolDescriptorsHigh")}
# Told, but over only when six hours are: `promtool` proves the end.
LASTING = {("dying", "PoolWorkersDying")}
# Their windows alone are longer than anybody wants to wait for a test: `promtool` proves them.
TOO_LONG = {"PoolErrorBudgetBurn1d", "PoolErrorBudgetBurn3d", "PoolSlowdown", "PoolRetryStorm"}
# Fires beside an alert of the same pool that says why, and is held back.
HELD_BACK = {
    ("burning", "PoolErrorBudgetBurn6h"),
}
# Likewise, of gauges: where scrapes fail for longer than their windows, each begins anew, the effect too.
HELD_BACK_UNLESS_UNSEEN = {
    ("stalled", "PoolOldestQueued"),
    ("stalled", "PoolOldestQueuedCritical"),
    ("all_hung", "PoolStalled"),
    ("all_hung", "PoolOldestQueued"),
    ("all_hung", "PoolOldestQueuedCritical"),
}
UNSEEN = f'min_over_time(max_over_time(up{{job="{JOB}"}}[600ms])[2m:200ms]) == 0'


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
        Child([sys.executable, str(PROGRAMS / "misbehaving.py")], folder / "program.log") as program,
        Child([sys.executable, str(PROGRAMS / "starving.py")], folder / "starving.log") as starving,
    ):
        targets = {
            job: [f"{LOOPBACK}:" + child.wait_for(r"PORT (\d+)")[1]]
            for job, child in ((JOB, program), (STARVING, starving))
        }
        rules = [exported / "prodpool.rules.yml"]
        with Prometheus(
            folder, targets, rule_files=rules, alertmanager=alertmanager.address, interval=INTERVAL
        ) as prometheus:
            # It takes a CPU from the others: not for longer than it has to.
            receiver.wait_for("firing", OF_PROCESSES, timeout=60)
            os.kill(starving.pid, signal.SIGUSR1)
            receiver.wait_for("firing", WANTED | LASTING, timeout=90)
            for pool, name in HELD_BACK | HELD_BACK_UNLESS_UNSEEN:
                prometheus.wait_for(f'ALERTS{{alertname="{name}", pool="{pool}", alertstate="firing"}}')
            firing, unseen = receiver.told("firing"), prometheus.query(UNSEEN)
            os.kill(program.pid, signal.SIGUSR1)
            receiver.wait_for("resolved", WANTED | OF_PROCESSES, timeout=90)
            yield {"firing": firing, "unseen": unseen, "prometheus": prometheus, "receiver": receiver}


@pytest.mark.long
def test_every_alert_is_told_and_resolved(story: dict[str, Any]) -> None:
    """Somebody was told of every alert, at once or never later than that it was over."""
    told = WANTED | OF_PROCESSES | LASTING
    assert {name for _, name in told} | TOO_LONG == {alert.name for alert in ALERTS}
    assert set(story["firing"]) >= told
    assert set(story["receiver"].told("resolved")) >= told - LASTING


@pytest.mark.long
def test_the_healthy_pool_is_never_mentioned(story: dict[str, Any]) -> None:
    """Of a pool that is well nobody is told anything, in the midst of all that."""
    assert not any(pool == "healthy" for pool, _ in story["receiver"].told("firing"))


@pytest.mark.long
def test_an_alert_that_says_why_holds_back_what_comes_of_it(story: dict[str, Any]) -> None:
    """Nobody was told of the others of the same pool, which fired beside it."""
    held_back = HELD_BACK if story["unseen"] else HELD_BACK | HELD_BACK_UNLESS_UNSEEN
    assert not held_back & set(story["firing"])


@pytest.mark.long
def test_what_is_told_is_whole(story: dict[str, Any]) -> None:
    """Sentences and addresses are filled in, quoted where they must be, and lead to the alert's page."""
    page = (ROOT / "runbook.md").read_text()
    for (_, name), alert in story["firing"].items():
        told, labels = alert["annotations"], alert["labels"]
        assert labels.get("pool", labels.get("instance")) in told["summary"]
        assert labels["job"] in told["description"]
        assert not re.search(r"<error|<no value>|\{\{|%!", " ".join(told.values())), told
        assert told["runbook_url"] == f"https://wiki.example/pools#{name.lower()}"
        assert f"\n### {name}\n" in page
        address = told["dashboard_url"]
        assert address.startswith("https://grafana.example/d/prodpool-")
        assert "var-job=shop+%26+co" in address or labels["job"] == STARVING
        for label in labels.keys() & {"job", "instance", "pool"}:
            assert f"var-{label}={quote_plus(labels[label])}" in address


@pytest.mark.long
def test_no_rule_fails(story: dict[str, Any]) -> None:
    """Every rule was evaluated, and none had an error."""
    for rule in story["prometheus"].rules():
        assert rule["health"] == "ok", rule
