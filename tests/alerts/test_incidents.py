"""What the runbook's history says of the incidents follows from a replay, and a short one agrees."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.incident_history import clock, findings, history_values
from prodpool.monitoring.thresholds import AlertThresholds
from tests.support import ROOT, missing
from tools.incidents.pipeline import ENRICHERS, PARSERS, WRITERS
from tools.incidents.replay import Plan, replay
from tools.incidents.scenes import SCENES, Proportions

pytestmark = pytest.mark.once

PAGE = (ROOT / "runbook.md").read_text()
HISTORY = PAGE.split("\n## Incident history\n")[1]
FOUND = findings()
# A fiftieth of every time, with queues and thresholds to match: 5 minutes are 6 s.
SHORT = Plan(
    AlertThresholds(window_scale=0.02, queue_depth=20.0, duration=0.1, dwell=0.5),
    Proportions(
        hung_after=1.2,
        webhooks=60.0,
        hung_share=4,
        deliverers=8,
        delivery=0.01,
        batch=10,
        batch_capacity=20,
        api=(0.02, 0.6),
        channel=200,
        third_party=(0.01, 0.5),
    ),
    interval=0.2,
    calm=4.0,
    seconds=18.0,
)


def firings() -> list[dict[str, Any]]:
    return [one for incident in FOUND["incidents"].values() for one in incident["firings"]]


def test_the_data_is_of_every_incident() -> None:
    """All three were replayed, it is known when and on what, and each made alerts fire."""
    assert list(FOUND["incidents"]) == [scene.name for scene in SCENES]
    assert all(incident["firings"] for incident in FOUND["incidents"].values())
    assert FOUND["date"] in HISTORY
    assert f"{FOUND['machine']['cores']} cores" in HISTORY
    for word in (*FOUND["versions"].values(), FOUND["machine"]["python"]):
        assert word in HISTORY


@pytest.mark.parametrize("name", FOUND["incidents"])
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
    hung, unbounded, cascading = FOUND["incidents"].values()
    dead, slow = hung["pools"]["webhook_delivery"], unbounded["pools"]["transform"]
    assert max(dead["busy_after"], dead["full_after"]) < 60
    assert dead["finished_at_end"] == 0
    assert _after(hung, "PoolHungTasks") > _after(hung, "PoolErrorBudgetBurn1h") > hung["firings"][0]["after"]
    assert hung["memory_after"] < 2 * hung["memory_before"]
    assert slow["finished_at_end"] < 0.01 * slow["finished_before"]
    assert slow["refused"] == 0
    names = [one["alert"] for one in unbounded["firings"]]
    assert names == ["PoolQueueSaturated", "PoolSlowTasks", "PoolDwellHigh"]
    assert {_pages(unbounded["firings"]), _pages(cascading["firings"])} == {False}
    full = [name for name, pool in cascading["pools"].items() if pool["full_after"] is not None]
    assert full[-1] == "enrich"
    assert cascading["pools"]["write"]["busy_after"] is None


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
    found = replay(SHORT, print)
    said = capsys.readouterr().out
    for name, incident in FOUND["incidents"].items():
        seen = found[name]["firings"]
        assert _told(seen) >= _told(incident["firings"]) - WITH_LUCK, said
        assert _pages(seen) == _pages(incident["firings"]), said
    assert found["hung_webhook"]["pools"]["webhook_delivery"]["finished_at_end"] == 0
    assert found["hung_webhook"]["pools"]["webhook_delivery"]["refused"] > 0
    # Nothing is refused where the producer waits, and it is the stage before that waits.
    assert {pool["refused"] for pool in found["cascading_slowdown"]["pools"].values()} == {0}
    assert found["cascading_slowdown"]["source_backlog"] > 0


def _told(firings: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(one["alert"], one["pool"]) for one in firings}


def _pages(firings: list[dict[str, Any]]) -> bool:
    return any(one["severity"] == "critical" for one in firings)
