"""What the real Sentry SDK sends of tasks, up to its transport."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from tests.helpers.waiting import PATIENCE
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def events() -> dict[str, list[dict[str, Any]]]:
    """The events of `sentry_app`: the SDK changes the process that it is in, so that has one of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.services.sentry_app"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def test_scopes(events: dict[str, list[dict[str, Any]]]) -> None:
    """A task begins with the tags of its request, and adds its own, which no other task or request has."""
    of_pool = {"request": "r-1", "workerpool.pool": "scopes", "workerpool.task": "work"}
    assert [(event["message"], event["tags"]) for event in events["scopes"]] == [
        ("task for acme", {**of_pool, "customer": "acme"}),
        ("task for umbrella", {**of_pool, "customer": "umbrella"}),
        ("request", {"request": "r-1"}),
    ]


def test_errors(events: dict[str, list[dict[str, Any]]]) -> None:
    """What a task raises is left to who reads its future, unless it is to be sent: then it is sent once."""
    assert events["not_captured"] == []
    assert [
        (event["exception"]["values"][-1]["type"], event["tags"]["workerpool.task"])
        for event in events["captured"]
    ] == [("ValueError", "fail 1"), ("ValueError", "fail 2")]


def test_log_lines_are_grouped(events: dict[str, list[dict[str, Any]]]) -> None:
    """Lines of one log event are one issue, by their common template; lines of another are another."""
    entries = [event["logentry"] for event in events["log_lines"]]
    assert len({entry["formatted"] for entry in entries}) == len(entries)
    templates = Counter(entry["message"] for entry in entries)
    assert sorted(templates.values()) == [2, 2]
    assert sorted(template.split()[0] for template in templates) == ["task.callback_error", "task.panic"]
