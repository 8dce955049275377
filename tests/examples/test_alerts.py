"""How the demonstration's alerts are told by act, judged and laid out; and its Prometheus comes and goes."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from examples.webhook_service import alerts, closing
from examples.webhook_service import prometheus as module
from examples.webhook_service.acts import ACTS, Act
from examples.webhook_service.alerts import SETTINGS, AlertStory, Firing, check_alerts, read
from examples.webhook_service.observability import OpsServer
from examples.webhook_service.processes import ChildError
from examples.webhook_service.prometheus import Prometheus
from prodpool.monitoring.alerts import ALERTS
from tests.observe.child import get
from tests.support import ROOT, child_processes, missing, runs

# Three acts of ten seconds each.
TIMES = ((0.0, 10.0), (10.0, 20.0), (20.0, 30.0))
SCRAPES = (5.0, 15.0, 25.0)


def firing(alert: str, first: float, last: float) -> Firing:
    return Firing(first, last, alert, "warning", f"runbook.md#{alert.lower()}")


def story(*firings: Firing, scrapes: tuple[float, ...] = SCRAPES) -> AlertStory:
    return AlertStory("2.42.0", scrapes, tuple(sorted(firings)), TIMES)


def acts() -> list[Act]:
    """Return a calm act, one that must set A off, and one in which A must be over."""
    return [
        Act("Calm", "", 10.0, (), (), quiet=True),
        Act("Trouble", "", 10.0, (), (), alerts=("A",)),
        Act("Recovery", "", 10.0, (), (), recovers=("A",)),
    ]


@pytest.mark.parametrize(
    ("seen", "failed"),
    [
        pytest.param(story(firing("A", 14, 22)), [], id="as it should be"),
        pytest.param(story(firing("A", 21, 24)), [], id="late, for windows look back"),
        pytest.param(story(firing("A", 14, 22), firing("B", 3, 4)), ["act 1: no alert fires"], id="not calm"),
        pytest.param(story(), ["act 2: A fires"], id="silent"),
        pytest.param(story(firing("A", 24, 26)), ["act 2: A fires"], id="too late"),
        pytest.param(story(firing("A", 14, 30)), ["act 3: A is over"], id="never over"),
        pytest.param(
            story(firing("A", 14, 22), scrapes=(15.0, 25.0)),
            ["Prometheus scraped the service in every act"],
            id="calm, but nobody looked",
        ),
        pytest.param(
            story(firing("A", 14, 22), firing(alerts.NEVER, 27, 28)),
            ["PoolStopped never fires: a stop in good order pages nobody"],
            id="a stop that pages",
        ),
    ],
)
def test_what_must_fire_and_what_must_not_is_judged(seen: AlertStory, failed: list[str]) -> None:
    """An alert that an act must set off, must end or must not know of decides; each by itself."""
    assert [check.statement for check in check_alerts(acts(), seen) if not check.held] == failed


def test_an_alert_is_told_where_it_began_and_how_long_it_fired() -> None:
    """The table has each alert once, in the act in which it began, with the page of the runbook to read."""
    out = io.StringIO()
    seen = story(firing("A", 14, 26), firing("B", 31, 32))
    Console(file=out, width=120).print(closing.alerts_fired(acts(), seen))
    rows = [line.split() for line in out.getvalue().splitlines()[3:] if line.strip()]
    assert rows == [
        ["1", "Calm", "none"],
        ["2", "Trouble", "A", "warning", "4.0", "s", "12.0", "s", "runbook.md#a"],
        ["3", "Recovery", "B", "warning", "11.0", "s", "1.0", "s", "runbook.md#b"],
    ]


def test_a_narrow_terminal_has_every_link_whole() -> None:
    """In 80 columns nothing is cut off: what does not fit goes on in the next line."""
    out = io.StringIO()
    url = "runbook.md#poolerrorbudgetburn1h"
    seen = story(firing("PoolErrorBudgetBurn1h", 14, 26))
    Console(file=out, width=80).print(closing.alerts_fired(acts(), seen))
    printed = out.getvalue()
    assert "…" not in printed
    column = printed.splitlines()[1].index("what to read")
    assert url in "".join(line[column:].strip() for line in printed.splitlines())


def test_a_spell_ends_where_more_is_missing_than_one_evaluation() -> None:
    """An evaluation that was late does not make two firings of one; a pause of seconds does."""
    values = [[10.0, "1"], [10.2, "1"], [10.8, "1"], [14.0, "1"]]
    line = {"metric": {"alertname": "A", "severity": "warning"}, "values": values}
    rules = {"A": {"annotations": {"runbook_url": "runbook.md#a"}}}
    found = list(alerts._firings([line], rules))
    assert [(one.first, one.last) for one in found] == [(10.0, 10.8), (14.0, 14.0)]


def test_the_notes_say_what_is_missing() -> None:
    """Without Prometheus it is said how to have it; a lost drop is explained, not passed over."""
    assert closing.alert_notes(None) == [closing.NO_PROMETHEUS]
    assert "apt-get install prometheus" in closing.NO_PROMETHEUS
    assert any("PoolShutdownLostTasks did not fire" in note for note in closing.alert_notes(story()))
    told = closing.alert_notes(story(firing("PoolShutdownLostTasks", 29, 30)))
    assert not any("did not fire" in note for note in told)
    assert "5 minutes are 3 s" in told[0]


def test_the_acts_name_alerts_that_there_are() -> None:
    """Whatever an act expects is the name of a rule."""
    named = {alerts.NEVER, *(alert for act in ACTS for alert in (*act.alerts, *act.recovers))}
    assert named <= {alert.name for alert in ALERTS}
    assert any(act.quiet for act in ACTS)


@pytest.fixture
def ops() -> Iterator[OpsServer]:
    """Serve the metrics of nothing."""
    server = OpsServer(0, CollectorRegistry(), lambda: "open")
    server.start()
    yield server
    server.stop()


def scrape(port: int) -> None:
    assert get(port, "/metrics")[0] == 200


def test_everybody_who_scraped_gets_the_last_numbers(ops: OpsServer) -> None:
    """The end waits for the second of two scrapers too, and not for one that never came."""
    assert not ops.wait_for_last_scrapes(0.0)
    ops._awaited = None
    scrape(ops.port)
    ops._scrapers.add(("10.0.0.1", "Prometheus/2.42.0"))
    assert not ops.wait_for_last_scrapes(0.0)
    scrape(ops.port)
    with ops._changed:
        assert ops._changed.wait_for(lambda: ops._awaited == {("10.0.0.1", "Prometheus/2.42.0")}, 5.0)


@pytest.fixture
def prometheus(ops: OpsServer) -> Iterator[Prometheus]:
    """Start the demonstration's Prometheus."""
    if not module.installed():
        missing("prometheus", "run: apt-get install prometheus")
    server = Prometheus(f"127.0.0.1:{ops.port}", SETTINGS)
    yield server
    server.close()


@pytest.mark.once
@pytest.mark.slow
def test_its_rules_are_the_projects_own(prometheus: Prometheus) -> None:
    """Every alert of the project is evaluated, in short windows, with its page; calm, none is read."""
    rules = prometheus.alert_rules()
    assert set(rules) == {alert.name for alert in ALERTS}
    assert rules["PoolDropping"]["duration"] == 3
    assert rules["PoolDropping"]["annotations"]["runbook_url"] == "runbook.md#pooldropping"
    began = time.time()
    seen = read(prometheus, [(began, began + 1)])
    assert seen.firings == ()
    assert seen.version


@pytest.mark.once
def test_nothing_is_left_of_it(prometheus: Prometheus) -> None:
    """Its process, its port and its folder go with it."""
    folder, pid = Path(prometheus._temporary.name), prometheus._process.pid
    assert folder.exists()
    assert runs(pid)
    prometheus.close()
    assert not folder.exists()
    assert not runs(pid)
    with pytest.raises(ChildError, match="does not answer any more"):
        prometheus.alert_rules()


@pytest.mark.once
def test_a_prometheus_that_does_not_start_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ops: OpsServer
) -> None:
    """The last line of its log is in the error, and nothing is left."""
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\necho no such flag\nexit 2\n")
    program.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: str(program) if name == "prometheus" else which(name))
    before = child_processes()
    with pytest.raises(ChildError, match="no such flag"):
        Prometheus(f"127.0.0.1:{ops.port}", SETTINGS)
    assert child_processes() <= before


@pytest.mark.once
@pytest.mark.slow
def test_an_interrupted_demonstration_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the first act ends children and Prometheus, and deletes what it wrote."""
    if not module.installed():
        missing("prometheus", "run: apt-get install prometheus")
    environment: dict[str, Any] = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    demo = subprocess.Popen(
        [sys.executable, "-m", "examples.webhook_service", "--plain"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        while not (line := demo.stdout.readline()).startswith("act 1 of 7"):
            assert line, "it ended"
        children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
        assert len(children) == 3
        demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 130
        assert [pid for pid in children if runs(int(pid))] == []
        assert [path.name for path in tmp_path.iterdir() if "prometheus" in path.name] == []
    finally:
        demo.kill()
        demo.communicate()
