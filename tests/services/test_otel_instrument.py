"""Pools under the real `opentelemetry-instrument`, which carries contexts into threads and executors."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.waiting import PATIENCE
from tests.services.instrumented_app import REQUESTS, WORKERS
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]
POOLS = ("executor", "factory", "threads")


def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the application until it exits; return what it has found, and its spans."""
    instrument = Path(sysconfig.get_path("scripts"), "opentelemetry-instrument")
    exporters = ["--traces_exporter=console", "--metrics_exporter=none", "--logs_exporter=none"]
    done = subprocess.run(
        [sys.executable, instrument, *exporters, sys.executable, "-m", "tests.services.instrumented_app"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed, found = done.stdout.strip(), []
    while printed:
        value, end = json.JSONDecoder().raw_decode(printed)
        found.append(value)
        printed = printed[end:].lstrip()
    (answer,) = [value for value in found if "submitted" in value]
    return answer, [value for value in found if "context" in value]


def test_instrumented() -> None:
    """Worker loops are leased as ever, tasks are in their caller's trace, and a hung one delays no exit."""
    found, spans = run()
    # A loop for each worker, not a call for each task.
    assert found["submitted"] == {"executor": WORKERS, "factory": WORKERS}
    # The span of the request that has started a worker does not stay in it.
    assert found["current_in_workers"] == [False]
    assert found["abandoned"] == {pool: ["hung"] for pool in POOLS}
    by_id = {span["context"]["span_id"]: span for span in spans}
    parents = Counter(
        (span["name"], by_id[span["parent_id"]]["name"] if span["parent_id"] else None)
        for span in spans
        if not span["name"].startswith("workerpool.queue")
    )
    expected: Counter[tuple[str, str | None]] = Counter()
    for pool in POOLS:
        expected[f"workerpool.task {pool} alone", None] = WORKERS
        expected["workerpool.task hung", None] += 1
        for number in range(REQUESTS // WORKERS):
            expected[f"request {number}", None] += 1
            expected[f"workerpool.task {pool} {number}", f"request {number}"] = WORKERS
            expected["query", f"workerpool.task {pool} {number}"] = WORKERS
    assert parents == expected
