"""What the runbook's history says of the incidents follows from a replay, and a short one agrees."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.incident_history import clock, findings, history_values
from prodpool.monitoring.runbook import TEMPLATE
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage.signs import linked
from tests.support import PACKAGE, ROOT, missing
from tools.incidents.__main__ import FINDINGS
from tools.incidents.calm_cases import CALM_CASES
from tools.incidents.causes import CAUSES
from tools.incidents.follow import LEADS_TO
from tools.incidents.pipeline import ENRICHERS, PARSERS, WRITERS
from tools.incidents.replay import Plan, replay
from tools.incidents.scene import Proportions, Scene
from tools.incidents.scenes import SCENES

pytestmark = pytest.mark.once

PAGE = (ROOT / "runbook.md").read_text()
HISTORY = PAGE.split("\n## Incident history\n")[1]
FOUND = findings()
TOLD_IN = (PACKAGE / "monitoring" / TEMPLATE).read_text()
TOLD = [name for name in FOUND["incidents"] if f"<{name}_alerts>" in TOLD_IN]
# The alert that says what is wrong, of each incident that the alerts can tell the cause of.
NAMING = {
    "churn": "PoolChurning",
    "slow_index": "PoolSlowdown",
    "connection_pool": "PoolSlowdown",
    "deadlock": "PoolWorkersHung",
    "gil_hog": "PoolStarved",
    "retry_storm": "PoolRetryStorm",
    "dying_worker": "PoolWorkersDying",
    "leaked_semaphore": "PoolWorkersHung",
}
# A batch looks like a pool that does not keep up: long tasks, a full queue, and a wait of several tasks.
WARNED = {"nightly_batch": {"PoolQueueSaturated", "PoolSlowTasks", "PoolDwellHigh"}}
# A fiftieth of every time, with queues and thresholds to match: 5 minutes are 6 s.
SHORT = Plan(
    AlertThresholds(
        window_scale=0.02,
        queue_depth=20.0,
        duration=0.1,
        dwell=0.5,
        oldest_queued=0.5,
        scheduling_delay=0.005,
    ),
    Proportions(
        hung_after=1.2,
        webhooks=60.0,
        hung_share=4,
        deliverers=8,
        delivery=0.01,
        batch=10,
        batch_capacity=200,
        api=(0.02, 0.6),
        channel=200,
        third_party=(0.01, 0.5),
        changed={
            "slow_index": {"rate": 200, "capacity": 5000},
            # With more of them the metrics could not be scraped within the interval.
            "gil_hog": {"renderers": 3},
            "dying_worker": {"every": 4},
            "leaked_semaphore": {"empty-share": 5},
        },
    ),
    interval=0.2,
    calm=4.0,
    seconds=18.0,
)


def firings() -> list[dict[str, Any]]:
    return [one for incident in FOUND["incidents"].values() for one in incident["firings"]]


def test_the_data_is_of_every_incident() -> None:
    """All eleven were replayed, and what is calm; it is known when and on what, and each made alerts fire."""
    assert list(FOUND["incidents"]) == [scene.name for scene in SCENES]
    assert list(FOUND["calm_cases"]) == [scene.name for scene in CALM_CASES]
    assert {scene.name: scene.cause for scene in SCENES} == {
        name: incident["cause"] for name, incident in FOUND["incidents"].items()
    }
    assert all(incident["firings"] for incident in FOUND["incidents"].values())
    assert FOUND["date"] in HISTORY
    assert f"{FOUND['machine']['cores']} cores" in HISTORY
    for word in (*FOUND["versions"].values(), FOUND["machine"]["python"]):
        assert word in HISTORY


def test_a_replay_is_written_where_the_runbook_reads() -> None:
    """The file that `make incidents` writes is the one that the history is made from."""
    assert json.loads(FINDINGS.read_text()) == FOUND


@pytest.mark.parametrize("name", NAMING)
def test_the_cause_is_named(name: str) -> None:
    """Among what fired is the alert that says what is wrong."""
    assert NAMING[name] in {one["alert"] for one in FOUND["incidents"][name]["firings"]}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_the_triage_leads_to_the_cause(scene: type[Scene]) -> None:
    """A program that followed it to the letter arrived at the cause, in five steps at most."""
    *steps, end = FOUND["incidents"][scene.name]["way"]
    assert end == LEADS_TO[scene.cause]
    assert 1 <= len(steps) <= 5
    assert f"| {scene.cause} | [" in HISTORY
    assert linked(end) in HISTORY


@pytest.mark.parametrize("name", TOLD)
def test_the_history_is_written_from_the_data(name: str) -> None:
    """Every alert that fired is told with its time, in the order in which they came; and nothing else is."""
    told = [
        f"| {clock(one['after'])} | [{one['alert']}](#{one['alert'].lower()}) | {one['severity']} "
        f"| `{one['pool']}` |"
        for one in FOUND["incidents"][name]["firings"]
    ]
    assert "\n".join(["|---|---|---|---|", *told, ""]) in HISTORY
    values = history_values(FOUND)
    assert [value for key, value in values.items() if key.startswith(name) and value not in HISTORY] == []


def test_another_replay_makes_another_history() -> None:
    """No number of the data is written by hand: with other data, each value is another."""
    other: dict[str, Any] = _changed(FOUND)
    ours, theirs = history_values(FOUND), history_values(other)
    assert [name for name in ours if ours[name] == theirs[name]] == []


def _changed(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: _changed(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_changed(value) for value in found]
    return found if found is None else f"{found}x" if isinstance(found, str) else round(found**1.2) + 70


def test_every_alert_that_is_named_has_its_page() -> None:
    """What fired is an alert that there is, of that severity, and the history links to its section."""
    severities = {alert.name: alert.severity for alert in ALERTS}
    assert {one["alert"]: one["severity"] for one in firings()}.items() <= severities.items()
    named = set(re.findall(r"\bPool[A-Z]\w+(?<!Error)\b", HISTORY))
    assert named >= {one["alert"] for one in firings()}
    assert named <= set(severities)
    for name in named:
        assert f"\n### {name}\n" in PAGE


def test_the_proportions_told_are_those_replayed() -> None:
    """What the history says of loads, workers and times is what the replay was given."""
    numbers = Proportions()
    prose = " ".join(HISTORY.split())
    for told in (
        f"{numbers.deliverers} workers and no time-out",
        f"{numbers.webhooks:g} webhooks a second, one in {numbers.hung_share} of them",
        f"{numbers.transformers} workers called an API that took {numbers.api[1]:g} s",
        f"{numbers.api[1]:g} s instead of {numbers.api[0] * 1000:g} ms",
        f"{numbers.batch_capacity:,} places and `overload",
        f"{numbers.records:g} records a second in batches of {numbers.batch}",
        f"is {numbers.transformers / numbers.api[0]:g})",
        f"parse ({PARSERS} workers), enrich ({ENRICHERS}), write ({WRITERS})",
        f"took {numbers.third_party[1]:g} s instead of {numbers.third_party[0] * 1000:g} ms",
        f"{numbers.items:g} records a second; the queue of enrich has the {numbers.channel:,} places",
    ):
        assert told in prose, told


@pytest.mark.parametrize("name", FOUND["incidents"])
def test_what_fires_first_is_said(name: str) -> None:
    """The sentence on each incident names its first alert, and the first that pages somebody, if one does."""
    incident = FOUND["incidents"][name]
    first, paged = incident["firings"][0], [x for x in incident["firings"] if x["severity"] == "critical"]
    verdict = history_values(FOUND)[f"{name}_verdict"]
    assert first["after"] == min(one["after"] for one in incident["firings"])
    assert f"The first alert is {first['alert']}" in verdict
    assert (f"pages somebody is {paged[0]['alert']}" if paged else "Nobody is paged") in verdict


def test_what_the_history_makes_of_it_holds() -> None:
    """The judgements, which are written by hand, follow from the data; a replay that differs shows here."""
    hung, unbounded, cascading = (FOUND["incidents"][name] for name in TOLD)
    dead, slow = hung["pools"]["webhook_delivery"], unbounded["pools"]["transform"]
    assert max(dead["busy_after"], dead["full_after"]) < 60
    assert dead["finished_at_end"] == 0
    assert hung["firings"][0]["alert"] == "PoolHungTasks"
    assert _after(hung, "PoolHungTasks") <= _after(hung, "PoolWorkersHung") < _after(hung, "PoolStalled")
    assert hung["memory_after"] < 2 * hung["memory_before"]
    assert slow["finished_at_end"] < 0.01 * slow["finished_before"]
    assert slow["refused"] == 0
    for incident in (unbounded, cascading):
        assert incident["firings"][0]["alert"] == "PoolSlowdown"
        assert _paged(incident) == {"PoolOldestQueuedCritical"}
    full = [name for name, pool in cascading["pools"].items() if pool["full_after"] is not None]
    assert full[-1] == "enrich"
    assert cascading["pools"]["write"]["busy_after"] is None


@pytest.mark.parametrize("name", [name for name in FOUND["incidents"] if name != "dying_worker"])
def test_each_incident_is_noticed_in_time(name: str) -> None:
    """Each is noticed within 5 minutes, but for rare deaths: they are a pattern when there are three."""
    assert FOUND["incidents"][name]["firings"][0]["after"] <= 300


@pytest.mark.parametrize(
    "name", [name for name in FOUND["incidents"] if name not in {"churn", "gil_hog", "dying_worker"}]
)
def test_what_loses_work_or_stands_still_is_paged_in_time(name: str) -> None:
    """Somebody is paged within 10 minutes."""
    pages = [one["after"] for one in FOUND["incidents"][name]["firings"] if one["severity"] == "critical"]
    assert min(pages) <= 600


@pytest.mark.parametrize("name", FOUND["calm_cases"])
def test_what_is_calm_is_left_alone(name: str) -> None:
    """Nobody is paged, and only the batch that keeps its queue full on purpose is warned of."""
    firings = FOUND["calm_cases"][name]["firings"]
    assert {one["alert"] for one in firings if one["severity"] != "info"} == WARNED.get(name, set())
    assert not _pages(firings)


def _paged(incident: dict[str, Any]) -> set[str]:
    return {one["alert"] for one in incident["firings"] if one["severity"] == "critical"}


def _after(incident: dict[str, Any], alert: str) -> float:
    return next(float(one["after"]) for one in incident["firings"] if one["alert"] == alert)


# Its queue is full at each of the scrapes of six seconds only if the machine has time to refill it at once.
WITH_LUCK = {("PoolQueueSaturated", pool) for pool in ("transform", "enrich", "parse")}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_replay_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    """With windows of a fiftieth the same alerts of the same pools fire, and the same incidents page."""
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        missing("prometheus", "run: apt-get install prometheus")
    found = replay(SHORT, [scene for scene in SCENES if scene.name in TOLD], print)
    said = capsys.readouterr().out
    for name in TOLD:
        incident = FOUND["incidents"][name]
        seen = found[name]["firings"]
        assert _told(seen) >= _told(incident["firings"]) - WITH_LUCK, said
        assert _pages(seen) == _pages(incident["firings"]), said
    assert found["hung_webhook"]["pools"]["webhook_delivery"]["finished_at_end"] == 0
    assert found["hung_webhook"]["pools"]["webhook_delivery"]["refused"] > 0
    # Nothing is refused where the producer waits, and it is the stage before that waits.
    assert {pool["refused"] for pool in found["cascading_slowdown"]["pools"].values()} == {0}
    assert found["cascading_slowdown"]["source_backlog"] > 0


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_short_replay_names_the_causes(capsys: pytest.CaptureFixture[str]) -> None:
    """With windows of a fiftieth each of the eight other causes makes the alert fire that names it."""
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        missing("prometheus", "run: apt-get install prometheus")
    found = replay(SHORT, CAUSES, print)
    said = capsys.readouterr().out
    fired = {name: {one["alert"] for one in incident["firings"]} for name, incident in found.items()}
    assert {name: alert for name, alert in NAMING.items() if alert not in fired[name]} == {}, said
    # What the log alone tells does not hang on how fast the machine is.
    for name in ("deadlock", "dying_worker"):
        assert found[name]["way"][-1] == LEADS_TO[found[name]["cause"]], said
    assert found["deadlock"]["pools"]["orders"]["finished_at_end"] == 0
    assert found["leaked_semaphore"]["pools"]["scan"]["finished_at_end"] == 0
    assert found["retry_storm"]["pools"]["checkout"]["refused"] > 0


def _told(firings: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["alert"], one["pool"]) for one in firings}


def _pages(firings: list[dict[str, Any]]) -> bool:
    return any(one["severity"] == "critical" for one in firings)
