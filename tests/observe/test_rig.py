"""What the tests of dashboards, alerts and runbook stand on is really there, and goes away."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.observe.child import Child, get
from tests.observe.prometheus import Prometheus, QueryError
from tests.observe.rig import JOB

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


def gone(pid: int) -> bool:
    """Tell whether there is no such process, or only what nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_busy_service_meets_every_trouble(prometheus: Prometheus, busy: list[str]) -> None:
    """Each pool of each instance is scraped, and each has its own trouble in the metrics."""
    assert sorted(prometheus.label_values("instance", "workerpool_info")) == sorted(busy)
    assert prometheus.label_values("job", "workerpool_info") == [JOB]
    assert prometheus.label_values("pool", "workerpool_info") == [
        "card_payments",
        "image_resize",
        "nightly_import",
        "report_builder",
        "webhook_delivery",
    ]
    # Not now but ever: the pool that is built anew begins at nothing.
    reasons = prometheus.query("max by (pool, reason) (max_over_time(workerpool_dropped_total[10m])) > 0")
    seen = {(sample.labels["pool"], sample.labels["reason"]) for sample in reasons}
    assert seen >= {
        ("image_resize", "full"),
        ("image_resize", "expired"),
        ("image_resize", "cancelled"),
        ("card_payments", "breaker_open"),
        ("nightly_import", "shutdown"),
    }
    assert prometheus.query("sum(workerpool_admission_wait_seconds_count) > 0")
    now = time.time()
    found = prometheus.exemplars("workerpool_task_duration_seconds_bucket", now - 300, now)
    assert any("trace_id" in one["labels"] for series in found for one in series["exemplars"])


def test_a_bad_query_is_refused_in_prometheus_own_words(prometheus: Prometheus) -> None:
    """What does not parse raises, so that no test takes it for an empty answer."""
    with pytest.raises(QueryError, match="parse error"):
        prometheus.query("sum(")
    assert prometheus.query("no_such_metric") == []
    assert prometheus.query("1 + 1")[0].value == 2


def test_a_server_is_gone_after_its_block(busy: list[str], tmp_path: Path) -> None:
    """Process and port are free again, also when the block ends in an error."""
    server = Prometheus(tmp_path, {JOB: busy})

    def fail_inside() -> None:
        with server:
            assert get(server.port, "/-/ready")[0] == 200
            raise LookupError

    with pytest.raises(LookupError):
        fail_inside()
    assert gone(server.pid)
    assert get(server.port, "/-/ready")[0] == 0


def test_rules_are_evaluated(busy: list[str], tmp_path: Path) -> None:
    """A rule file is loaded; what it alerts on is pending or fires."""
    rules = tmp_path / "it.rules.yml"
    rules.write_text("groups: [{name: g, rules: [{alert: Up, expr: up == 1}]}]")
    with Prometheus(tmp_path, {JOB: busy}, rule_files=[rules]) as server:
        server.wait_for('ALERTS{alertname="Up", alertstate="firing"}')
        assert [rule["name"] for rule in server.rules()] == ["Up"]
        assert {alert["labels"]["instance"] for alert in server.alerts()} <= set(busy)


def test_a_service_ends_cleanly(tmp_path: Path) -> None:
    """The busy service ends with status 0 when it is asked to, and says nothing but its port."""
    program = Path(__file__).parent / "programs" / "busy.py"
    child = Child([sys.executable, "-W", "error", str(program), "7"], tmp_path / "log")
    port = int(child.wait_for(r"PORT (\d+)")[1])
    child.until(lambda: b"workerpool_info{" in get(port, "/metrics")[1], "metrics")
    assert child.end() == 0
    assert child.log.read_text() == f"PORT {port}\n"
    assert gone(child.pid)


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """A server is killed with the interpreter that started it, even one that leaves by os._exit."""
    program = (
        "import os, sys; sys.path.insert(0, os.getcwd())\n"
        "from pathlib import Path\n"
        "from tests.observe.child import Child\n"
        f"child = Child(['sleep', '1000'], Path({str(tmp_path / 'log')!r}))\n"
        "child.until(lambda: 'sleep' in Path(f'/proc/{child.pid}/comm').read_text(), 'sleep')\n"
        "print(child.pid, flush=True)\n"
        "os._exit(0)"
    )
    parent = Child([sys.executable, "-c", program], tmp_path / "parent.log")
    pid = int(parent.wait_for(r"(?m)^(\d+)$")[1])
    ends_at = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < ends_at:
        os.sched_yield()
    assert gone(pid)
    parent.end()
