from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from examples.webhook_service.report import (
    broken_law,
    check_claims,
    check_end,
    check_scrapes,
    went_back,
    window,
)
from examples.webhook_service.traffic import Tally
from tests.examples.exposition import RESULTS, snapshot

AGREEING = Tally(accepted=100, refused={"full": 7})
END = {"stopped": 1, "queue_depth": 0, "ok": 84}


def test_a_window_is_the_difference_of_its_ends() -> None:
    """Counts and quantiles of a window come from what was added between its first and its last scrape."""
    first = snapshot(10.0, dwell=(50, 50, 50, 50))
    middle = snapshot(11.0, submitted=110, queue_depth=14, hung_tasks=3, breaker="open")
    last = snapshot(12.0, submitted=130, ok=108, error=7, full=17, dwell=(50, 150, 150, 150))
    seen = window([first, middle, last])
    assert (seen.seconds, seen.offered, seen.submitted) == (2.0, 40, 30)
    assert seen.completed == {**dict.fromkeys(RESULTS, 0), "ok": 28, "error": 2}
    assert seen.dropped["full"] == 10
    assert seen.dropped["shutdown"] == 0
    assert seen.dwell_p50 == pytest.approx(0.055)
    assert (seen.max_depth, seen.last_depth, seen.max_hung) == (14, 4, 3)
    assert seen.breaker == ("closed", "open", "closed")


def test_one_scrape_is_no_window() -> None:
    """A single scrape says nothing about what happened."""
    with pytest.raises(ValueError, match="two scrapes"):
        window([snapshot()])


def test_the_law_holds_when_every_task_is_somewhere() -> None:
    """Submitted tasks that are finished, dropped, queued or running add up."""
    assert broken_law(snapshot()) is None


@pytest.mark.parametrize(
    "off",
    [
        {"submitted": 101},
        {"ok": 79},
        {"error": 6},
        {"panic": 1},
        {"timeout": 1},
        {"cancelled_running": 1},
        {"expected": 1},
        {"expired": 1},
        {"cancelled": 1},
        {"shutdown": 4},
        {"queue_depth": 5},
        {"workers_busy": 5},
    ],
    ids=lambda off: next(iter(off)),
)
def test_the_law_is_broken_by_any_number_that_is_one_off(off: dict[str, int]) -> None:
    """One task too many or too few in any term is found, wherever in the run it was."""
    broken = broken_law(snapshot(**off))
    assert broken is not None
    assert f"submitted {off.get('submitted', 100)}" in broken
    check = check_scrapes([snapshot(), snapshot(**off), snapshot()])[0]
    assert (check.held, check.evidence) == (False, broken)


@pytest.mark.parametrize("reason", ["full", "closed", "breaker_open"])
def test_the_law_is_about_what_was_let_in(reason: str) -> None:
    """A task refused by submit was never submitted: it is offered, and nowhere else."""
    refused = snapshot(**{reason: 50})
    assert broken_law(refused) is None
    assert refused.offered == 150 if reason == "full" else 157


def test_a_counter_that_falls_is_found() -> None:
    """Counters only rise; one that falls is named."""
    assert went_back([snapshot(), snapshot(submitted=120), snapshot(submitted=130)]) is None
    assert went_back([snapshot(), snapshot(ok=79)]) == "completed ok fell from 80 to 79"
    assert not check_scrapes([snapshot(), snapshot(full=6)])[2].held


@pytest.mark.parametrize("over", [{"queue_depth": 33}, {"workers_busy": 9}], ids=["queue", "workers"])
def test_a_bound_that_is_passed_is_found(over: dict[str, int]) -> None:
    """More waiting than the capacity, or more running than workers, fails the run."""
    assert not check_scrapes([snapshot(), snapshot(**over)])[1].held


def test_no_scrapes_prove_nothing() -> None:
    """Without a scrape the law has not held."""
    assert not check_scrapes([])[0].held


def test_an_end_that_agrees_with_the_senders_holds() -> None:
    """Answers counted by the senders equal the pool's counters, the pool is stopped, the exit status 0."""
    assert all(check.held for check in check_end(snapshot(**END), AGREEING, 84, 0))


@pytest.mark.parametrize(
    ("numbers", "tally", "exit_code", "failing"),
    [
        pytest.param(
            {}, replace(AGREEING, accepted=99), 0, {0, 2}, id="an accepted webhook too many in the metrics"
        ),
        pytest.param(
            {}, replace(AGREEING, refused={"full": 8}), 0, {1, 2}, id="a refusal the metrics do not know"
        ),
        pytest.param({"queue_depth": 1}, AGREEING, 0, {5}, id="something left waiting"),
        pytest.param({"ok": 85}, AGREEING, 0, {3}, id="ok, but never acknowledged"),
        pytest.param({"ok": 72}, AGREEING, 0, {3}, id="acknowledged, but counted nowhere"),
        pytest.param({}, replace(AGREEING, exhausted=1), 0, {4}, id="a patient sender gave up"),
        pytest.param({"stopped": 0}, AGREEING, 0, {5}, id="not stopped"),
        pytest.param({}, AGREEING, 1, {6}, id="a bad exit status"),
        pytest.param({}, AGREEING, None, {6}, id="no exit"),
        pytest.param(
            {}, replace(AGREEING, accepted=98, cut=2), 0, set(), id="two answers lost, which explain it"
        ),
        pytest.param(
            {}, replace(AGREEING, accepted=97, cut=2), 0, {0, 2}, id="two answers lost, three missing"
        ),
    ],
)
def test_an_end_that_disagrees_is_found(
    numbers: dict[str, Any], tally: Tally, exit_code: int | None, failing: set[int]
) -> None:
    """Each disagreement fails its own check and no other."""
    checks = check_end(snapshot(**{**END, **numbers}), tally, 84, exit_code)
    assert {n for n, check in enumerate(checks) if not check.held} == failing


def test_an_act_is_judged_by_its_own_window() -> None:
    """A claim that its scrapes do not bear out fails, with what was seen instead."""
    seen = window([snapshot(0.0), snapshot(1.0, full=9)])
    claims = (
        ("some are refused", lambda one: one.dropped["full"] > 0, lambda one: f"{one.dropped['full']}"),
        ("none fail", lambda one: one.completed["error"] > 0, lambda one: f"{one.completed['error']}"),
    )
    checks = check_claims("act 1", claims, seen)
    assert [(check.statement, check.held, check.evidence) for check in checks] == [
        ("act 1: some are refused", True, "2"),
        ("act 1: none fail", False, "0"),
    ]
