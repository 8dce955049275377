"""The triage: what it reads out of logs and stacks, the signs that its query shows, and where they lead."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from structlog.typing import Processor

from prodpool import InstrumentedPool
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage.log_summary import log_table, summarise
from prodpool.monitoring.triage.signs import (
    CYCLE,
    DROPPED,
    LEAK,
    LOG_SIGNS,
    NOT_THE_POOL,
    SIGNS,
    SILENT,
    TOO_SMALL,
    WAITING_STEP,
    from_log,
    from_signs,
    from_waits,
    signs_query,
)
from prodpool.monitoring.triage.stacks import Wait, WaitsFor, frames_of, waits_in, what_it_waits_for
from prodpool.testing import flush_telemetry
from tests.alerts.cases import (
    DAY,
    HOUR,
    LOST,
    POOL,
    breaker,
    dying,
    failing,
    reason,
    result,
    slowed,
    stopped,
    storm,
)
from tests.alerts.synthetic import Pool
from tests.alerts.test_rules import BYSTANDER
from tests.helpers.waiting import until
from tests.support import ROOT

pytestmark = pytest.mark.once

PAGE = (ROOT / "runbook.md").read_text()
PY_SPY = """\
Process 1: python service.py
Python v3.11.2 (/usr/bin/python3.11)

Thread 1 (idle): "MainThread"
    wait (threading.py:327)
    <module> (service.py:19)
Thread 17 (idle): "prodpool-watchdog"
    _make_next_call (prodpool/concurrency/background_thread.py:128)
Thread 18 (idle): "mail_0"
    Condition.wait (threading.py:327)
    Semaphore.acquire (threading.py:479)
    send (mail.py:7)
    Runner.run (prodpool/execution/runner.py:82)
    LeasedWorkers._loop (prodpool/workers/threads/leased.py:141)
Thread 19 (idle): "mail_1"
    PoolFuture._wait (prodpool/task/future.py:316)
    PoolFuture.result (prodpool/task/future.py:150)
    outer (mail.py:13)
    Runner.run (prodpool/execution/runner.py:82)
Thread 20 (active+gil): "mail_2"
    busy (mail.py:20)
    Runner.run (prodpool/execution/runner.py:82)
Thread 21 (idle): "mail_3"
    readinto (socket.py:706)
    _read_status (http/client.py:286)
    fetch (mail.py:31)
    Runner.run (prodpool/execution/runner.py:82)
Thread 22 (idle): "mail_4"
    wait (threading.py:327)
    LeasedWorkers._loop (prodpool/workers/threads/leased.py:141)
"""


def write_a_log(renderer: Processor, *, hang: threading.Event) -> str:
    """Return the log of a pool with a task that waits for a lock and one that fails, in a form."""
    out = io.StringIO()
    logger = structlog.wrap_logger(
        structlog.PrintLogger(out), processors=[structlog.processors.add_log_level, renderer]
    )

    def waits_for_a_lock() -> None:
        hang.wait()

    def fails() -> None:
        raise ValueError("no\nway")

    pool = InstrumentedPool(ThreadPoolExecutor(1), name="mail", hung_after=0.2, logger=logger)
    pool.submit(waits_for_a_lock)
    until(lambda: "task.still_running" in out.getvalue())
    hang.set()
    pool.submit(fails).exception()
    pool.stop(5.0)
    flush_telemetry(pool)
    return out.getvalue()


RENDERERS: dict[str, Processor] = {
    "json": structlog.processors.JSONRenderer(),
    "key-value": structlog.processors.KeyValueRenderer(key_order=["event"]),
    "logfmt": structlog.processors.LogfmtRenderer(),
    "console": structlog.dev.ConsoleRenderer(colors=True),
}


@pytest.mark.parametrize("form", RENDERERS)
def test_a_log_of_any_form_is_summed_up(form: str) -> None:
    """Warnings and errors are counted by event, pool and task; a hung task's line says what it waits for."""
    text = write_a_log(RENDERERS[form], hang=threading.Event())
    found = summarise(["GET / 200\n", "{not json\n", *text.splitlines(keepends=True)])
    assert {(line.level, line.event, line.pool) for line in found} == {
        ("warning", "task.still_running", "mail"),
        ("warning", "task.error", "mail"),
    }
    hung = next(line for line in found if line.event == "task.still_running")
    assert hung.waits_for is WaitsFor.RESOURCE
    assert re.search(r"waits for a lock or a queue at .*waits_for_a_lock \(test_triage\.py:\d+\)", hung.what)
    failed = next(line for line in found if line.event == "task.error")
    assert "ValueError" in failed.what
    assert from_log(found, ["mail"]) == WAITING_STEP
    assert from_log(found, ["another"]) is None


def test_a_log_through_the_standard_library(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that logging writes, with a level of its own in front, are understood too."""
    line = "2026-01-01 WARNING prodpool.pool task.panic pool='mail' task='send' error='SystemExit'"
    (found,) = summarise([line, "INFO task.error pool=mail", "2026-01-01 WARNING something.else pool='mail'"])
    assert (found.level, found.event, found.pool, found.task) == ("warning", "task.panic", "mail", "send")
    assert not caplog.records
    assert logging.getLevelName(logging.WARNING).lower() == found.level


@pytest.mark.parametrize(
    "prefix",
    ["", "[pod/web-7d9-x2x/app] ", "2026-11-30T03:00:35.9Z stdout F ", "2026-11-30 03:00:35,912 INFO "],
)
def test_what_stands_before_a_line_is_no_part_of_it(prefix: str) -> None:
    """Prefixes of kubectl, of a container's runtime and of logging are passed over."""
    fields = {"event": "task.error", "severity": "ERROR", "pool": "mail", "error": {"type": "OSError"}}
    (found,) = summarise([prefix + json.dumps(fields)])
    assert (found.level, found.pool, found.what) == ("error", "mail", "")


def test_lines_of_other_forms() -> None:
    """Docker's own files are unwrapped; braces in text are no JSON; without a level the usual one counts."""
    inner = json.dumps({"event": "task.panic", "pool": "mail"})
    lines = [
        json.dumps({"log": inner + "\n", "stream": "stdout"}),
        "pool.dropping pool=mail dropped=3 kwargs={}",
        "[pod/info-api-1/app] something.else about pool.something in info",
        json.dumps({"message": "task.panic", "levelname": "ERROR", "pool": "mail", "suppressed": "some"}),
    ]
    found = summarise(lines)
    assert {(line.level, line.event): count for line, count in found.items()} == {
        ("error", "task.panic"): 2,
        ("warning", "pool.dropping"): 1,
    }


def test_rows_that_differ_in_numbers_are_one() -> None:
    """A thousand messages with an id each make one row, of one line."""
    lines = [
        json.dumps(
            {"event": "task.error", "level": "warning", "pool": "mail", "error_message": f"order {n}\n" * 9}
        )
        for n in range(50)
    ]
    head, row = log_table(lines)
    assert row.split()[0] == "50"
    assert len(row) < len(head) + 80


def test_what_was_suppressed_is_counted() -> None:
    """A line that speaks for others that were not written counts for all of them; a summary for those."""
    line = {"event": "task.error", "level": "warning", "pool": "mail", "task": "send", "error": "OSError"}
    lines = [json.dumps(line), json.dumps({**line, "suppressed": 40})]
    assert summarise(lines).total() == 42
    summary = json.dumps(
        {"event": "task.error", "level": "warning", "pool": "mail", "suppressed": 9, "summary": True}
    )
    assert summarise([summary]).total() == 9


def test_the_table_begins_with_what_is_worst() -> None:
    """Errors come first, then what there are most of."""
    lines = [
        json.dumps({"event": event, "level": level, "pool": "mail"})
        for event, level in (("task.slow", "warning"), ("task.error", "warning"), ("task.panic", "error"))
        for _ in range(3 if event == "task.error" else 1)
    ]
    head, *rows = log_table(lines)
    assert head.split() == ["lines", "level", "event", "pool", "task", "what"]
    assert [row.split()[:3] for row in rows] == [
        ["1", "error", "task.panic"],
        ["3", "warning", "task.error"],
        ["1", "warning", "task.slow"],
    ]


def test_stacks_of_py_spy() -> None:
    """Only threads that are in a task count, each by what it waits for and where in its own code."""
    assert waits_in(PY_SPY) == {
        Wait(WaitsFor.RESOURCE, "send (mail.py:7)", "mail"): 1,
        Wait(WaitsFor.RESULT, "outer (mail.py:13)", "mail"): 1,
        Wait(WaitsFor.NOTHING, "busy (mail.py:20)", "mail"): 1,
        Wait(WaitsFor.NETWORK, "fetch (mail.py:31)", "mail"): 1,
    }


def test_stacks_of_a_dump() -> None:
    """What `pool.dump()` returns is understood as well."""
    held = threading.Lock()
    held.acquire()
    waiting = threading.Condition()

    def send() -> None:
        with waiting:
            waiting.wait(60)

    with InstrumentedPool(ThreadPoolExecutor(2), name="mail") as pool:
        pool.submit(send)
        until(lambda: "send" in pool.dump())
        (wait,) = waits_in(pool.dump())
        with waiting:
            waiting.notify_all()
    assert wait.what is WaitsFor.RESOURCE
    assert "send (test_triage.py:" in wait.where


@pytest.mark.parametrize("text", ["", "nothing\n\nof the kind", "Thread 1 (idle): x\n", "\x00\xff"])
def test_text_without_stacks(text: str) -> None:
    """Whatever else comes is no stack."""
    assert not waits_in(text)
    assert what_it_waits_for(frames_of(text)) == Wait(WaitsFor.NOTHING, "")


def test_the_commands(tmp_path: Path) -> None:
    """Both read a pipe with anything in it, and end well when nobody reads on."""
    line = json.dumps(
        {"event": "task.panic", "level": "error", "pool": "mail", "task": "send", "error": "SystemExit"}
    )
    log = b"\xff\xfe garbage\n" + line.encode() + b"\n"
    command = [sys.executable, "-m", "prodpool"]
    said = subprocess.run([*command, "log"], input=log, capture_output=True, timeout=60, check=True)
    assert said.stdout.decode().splitlines()[1].split() == [
        "1",
        "error",
        "task.panic",
        "mail",
        "send",
        "error=SystemExit",
    ]
    said = subprocess.run(
        [*command, "stacks"], input=PY_SPY.encode(), capture_output=True, timeout=60, check=True
    )
    assert "send (mail.py:7)" in said.stdout.decode()
    for name in ("log", "stacks"):
        nothing = subprocess.run(
            [*command, name], input=b"GET /", capture_output=True, timeout=60, check=False
        )
        assert (nothing.returncode, nothing.stdout) == (1, b"")
        assert b"in what was read" in nothing.stderr
    reader, writer = os.pipe()
    os.close(reader)
    (tmp_path / "log").write_bytes(log)
    with (tmp_path / "log").open() as lines:
        done = subprocess.run(
            [*command, "log"], stdin=lines, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def headings() -> set[str]:
    """Return the runbook's headings."""
    return set(re.findall(r"^###? (.+)$", PAGE, re.MULTILINE))


def test_every_way_leads_to_a_page() -> None:
    """Whatever the log, the signs and the stacks lead to is a heading of the runbook, and no link is dead."""
    leads = {sign.leads_to for sign in (*LOG_SIGNS, *SIGNS)} | {TOO_SMALL, NOT_THE_POOL, CYCLE, LEAK, SILENT}
    assert leads <= headings()
    anchors = {re.sub(r"[^\w-]", "", one.lower().replace(" ", "-")) for one in headings()}
    linked = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert linked - anchors == set()


SHOWN: dict[str, tuple[Pool, float]] = {
    "PoolStopped": (stopped(20, 4, lasts=None), 13),
    "PoolWorkersHung": (POOL.with_(gauges={"hung_tasks": [(10, 0), (20, 25)]}), 12),
    "PoolHungTasks": (POOL.with_(gauges={"queue_depth": [(60, 0)], "hung_tasks": [(10, 0), (20, 1)]}), 12),
    "PoolDescriptorsHigh": (POOL.with_(gauges={"process_open_fds": [(60, 900)]}), 12),
    "PoolStalled": (POOL.with_(counters={result("ok"): [(10, 60), (20, 0)]}), 16),
    "PoolWorkersDying": (POOL.with_(counters={LOST: dying(1)}), 40),
    "PoolPanicRate": (POOL.with_(counters={result("panic"): [(10, 0), (20, 3)]}), 12),
    "PoolRetryStorm": (storm(refused=12_000), 25 * HOUR + 9),
    "PoolStarved": (POOL.with_(counters={"scheduling_delay_seconds_sum": [(10, 0.03), (10, 3)]}), 13),
    "PoolBreakerOpen": (breaker((10, "closed"), (9, "open")), 12),
    "PoolErrorBudgetBurn1h": (failing((10, 0), (20, 0.1)), 14),
    "PoolQueueGrowing": (POOL.with_(gauges={"workers_busy": [(60, 50)]}), 14),
    DROPPED: (POOL.with_(gauges={"queue_depth": [(60, 0)]}, counters={reason("expired"): [(60, 1)]}), 14),
    "PoolChurning": (
        POOL.with_(gauges={"queue_depth": [(60, 0)]}, counters={"workers_started_total": [(60, 90)]}), 14,
    ),
    WAITING_STEP: (slowed(2.2), 25 * HOUR + 9),
    NOT_THE_POOL: (POOL.with_(gauges={"queue_depth": [(60, 0)]}), 30),
}  # fmt: skip


def signs_shown(promtool: str, folder: Path, pool: Pool, at: float) -> list[dict[str, str]]:
    """Return the labels that the query's answer has for a pool beside a healthy one, by `promtool`."""
    step = 1.0 if at > DAY else 0.25
    healthy = BYSTANDER.with_(gauges={"queue_depth": [(at + 9, 0)]}, counters_alone=pool.counters_alone)
    test = {
        "interval": f"{round(step * 60)}s",
        "input_series": [one for each in (pool, healthy) for one in each.series(at + 2 * step, step)],
        "promql_expr_test": [{"expr": signs_query(AlertThresholds()), "eval_time": f"{round(at * 60)}s"}],
    }
    file = folder / "test.yml"
    file.write_text(json.dumps({"rule_files": [], "tests": [test]}))
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    # It fails as nothing is expected, and says what it got.
    got = re.findall(r"\{([^}]*)\}", done.stdout.partition("got:")[2] + done.stderr.partition("got:")[2])
    return [dict(re.findall(r'(\w+)="([^"]*)"', labels)) for labels in got]


@pytest.mark.parametrize("heading", SHOWN)
def test_signs_lead_to_the_cause(heading: str, promtool: str, tmp_path: Path) -> None:
    """A pool that is in trouble is led to the page of it, and the healthy pool beside it shows no sign."""
    pool, at = SHOWN[heading]
    shown = signs_shown(promtool, tmp_path, pool, at)
    assert {labels["pool"] for labels in shown} <= {pool.name}, shown
    assert from_signs(shown) == heading, shown


def test_every_page_that_a_sign_leads_to_was_tried() -> None:
    """None is left out above."""
    assert {sign.leads_to for sign in SIGNS} <= set(SHOWN)


@pytest.mark.parametrize(
    ("waits", "heading"),
    [
        ({Wait(WaitsFor.RESOURCE, "a"): 6}, LEAK),
        ({Wait(WaitsFor.RESOURCE, "a", "mail"): 6, Wait(WaitsFor.NETWORK, "b", "web"): 9}, LEAK),
        ({Wait(WaitsFor.RESOURCE, "a"): 6, Wait(WaitsFor.NETWORK, "b"): 5}, TOO_SMALL),
        ({Wait(WaitsFor.RESOURCE, "a"): 5, Wait(WaitsFor.NETWORK, "b"): 5}, "PoolSlowdown"),
        ({Wait(WaitsFor.RESOURCE, "a"): 1}, "PoolSlowdown"),
        ({}, "PoolSlowdown"),
    ],
)
def test_where_tasks_wait_leads_to_the_cause(waits: dict[Wait, int], heading: str) -> None:
    """All of them at a lock or queue are at one that nobody gives back; more than half, at one too small."""
    assert from_waits(waits) == heading
