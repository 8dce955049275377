"""Dashboards, alerts and runbook of a service whose four gunicorn workers are one instance for Prometheus."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.dashboards.boards import FILES, Asked, View, asked, panels
from tests.helpers.waiting import PATIENCE, poll
from tests.observe.prometheus import Prometheus
from tests.observe.questions import RULES, answer, runbook_queries
from tests.services.gunicorn_server import Gunicorn, gunicorn

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(240)]

JOB, WORKERS = "web", 4
# Of one worker's pool of orders, as `queried_app` has it.
THREADS, QUEUE = 2, 4
POOLS = ("imports", "orders", "payments")
RESULTS, DROPPED_LATER = ("ok", "error", "panic"), ("expired", "shutdown")
REASONS = (*DROPPED_LATER, "full", "closed", "breaker_open")
# What has no answer, since prometheus_client has no such metrics in this mode. The guide lists it.
NOT_IN_THIS_MODE = {
    *((file, "Starts") for file in FILES),
    ("overview", 65),  # uptime
    ("overview", 66),  # memory
    ("overview", 72),  # CPU
    ("overview", 73),  # file descriptors
}
MAY_BE_EMPTY = {
    ("overview", 33): "no queue need be growing",
}
# Shares that may well be above 1 or below 0: of the workers there are, and of what is left.
UNBOUNDED = {("capacity", 21), ("capacity", 31)}
# How much a rate of twelve seconds may be too high, since the files are written once a second.
LATE = 0.1
# With which five minutes are 15 s.
THRESHOLDS = AlertThresholds(window_scale=0.05, slo_min_tasks=50)
# Those that are seen, of all.
WANTED = {
    ("orders", "PoolDropping"),
    ("orders", "PoolPanicRate"),
    ("orders", "PoolHungTasks"),
    ("orders", "PoolErrorBudgetBurn1h"),
    ("payments", "PoolBreakerOpen"),
    ("imports", "PoolShutdownLostTasks"),
}
# What nothing here is a reason for.
UNSEEN = {"PoolBreakerFlapping", "PoolStalled", "PoolBackendRebuilding", "PoolMetricsAbsent"}


class Clients:
    """Clients of a service, who count what came of their tasks."""

    def __init__(self, server: Gunicorn) -> None:
        self._server = server
        self._lock = threading.Lock()
        self.counts: Counter[tuple[str, str]] = Counter()  # guarded by _lock

    def ask(self, path: str) -> tuple[int, int]:
        """Make a request; return the pid of the worker that answered, and of how many tasks it told."""
        page = self._server.get(path)
        assert page is not None, self._server.log()
        answer = json.loads(page)
        with self._lock:
            self.counts.update((pool, outcome) for pool, outcome in answer["outcomes"])
        return answer["pid"], len(answer["outcomes"])

    def touch(self) -> set[int]:
        """Have every worker use its pools; return their pids."""
        seen: set[int] = set()

        def all_were() -> bool:
            seen.add(self.ask("touch")[0])
            return len(seen) == WORKERS

        assert poll(all_were, PATIENCE, every=0.02)
        return seen

    @contextmanager
    def ordering(self) -> Iterator[None]:
        """Have six clients order throughout the block."""
        over = threading.Event()

        def order() -> None:
            while not over.wait(0.05):
                self.ask("orders")

        with ThreadPoolExecutor(6) as clients:
            running = [clients.submit(order) for _ in range(6)]
            try:
                yield
            finally:
                over.set()
            for one in running:
                one.result()


@dataclass(frozen=True)
class Story:
    """What happened.

    Attributes:
        busy: A unix time in the midst of it.
        alerts: Pools and names of all alerts whose condition has held.
        counts: What came of all tasks, by pool and outcome.
    """

    prometheus: Prometheus
    busy: float
    alerts: set[tuple[str, str]]
    counts: Counter[tuple[str, str]]

    def comes_to(self, expr: str, number: float) -> None:
        """Fail if an expression is not that number once all is written and scraped."""
        self.prometheus.wait_for(f"({expr}) == {number}")


def recycle(server: Gunicorn, clients: Clients, prometheus: Prometheus) -> None:
    """Have a worker replaced by another one, and both be seen by Prometheus."""
    there = 'sum(workerpool_breaker_state{pool="orders"})'
    os.kill(min(clients.touch()), signal.SIGTERM)
    prometheus.wait_for(f"{there} == {WORKERS - 1}")
    clients.touch()
    prometheus.wait_for(f"{there} == {WORKERS}")


def misbehave(server: Gunicorn, prometheus: Prometheus) -> Story:
    """Have workers be replaced; then, under load, have one of four hang, one be open and one be stopped."""
    clients, alerts = Clients(server), set[tuple[str, str]]()

    def all_seen() -> bool:
        alerts.update((one["labels"]["pool"], one["labels"]["alertname"]) for one in prometheus.alerts())
        return alerts >= WANTED

    for _ in range(3):
        recycle(server, clients, prometheus)
    with clients.ordering():
        for once in ("hang", "trip", "stop"):
            assert clients.ask(once)[1]
        assert poll(all_seen, 3 * PATIENCE, every=0.2), alerts
        prometheus.wait_for('count(ALERTS{alertstate="firing"})')
        prometheus.wait_for_scrapes(2)
        busy = time.time()
    return Story(prometheus, busy, alerts, clients.counts)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Run a service of four workers whose pools misbehave, under a Prometheus with the rules as shipped."""
    folder = tmp_path_factory.mktemp("queried")
    for name, text in render_files("alerts", THRESHOLDS).items():
        (folder / name).write_text(text)
    for name in ("metrics", "claims", "prometheus"):
        (folder / name).mkdir()
    env = {"PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"), "CLAIMS": str(folder / "claims")}
    options = ("--timeout=120", "--config=python:prodpool.integrations.gunicorn")
    rules = [folder / "prodpool.rules.yml"]
    with (
        gunicorn(folder, "queried_app", *options, workers=WORKERS, **env) as server,
        Prometheus(folder / "prometheus", {JOB: [server.address]}, rule_files=rules) as prometheus,
    ):
        yield misbehave(server, prometheus)


def answers(story: Story, one: Asked) -> list[float]:
    """Return what an expression of a dashboard comes to in the midst of the story, in any of the pools."""
    views = [View(chosen={"pool": pool} if one.file == "pool" else {}, scrape=3) for pool in POOLS]
    found = [answer(story.prometheus, one, view, story.busy) for view in views]
    return [value for values in found for value in values]


def test_every_panel_has_an_answer(story: Story) -> None:
    """As with one process, each has numbers to show; save those that need metrics of processes."""
    found = [(one, answers(story, one)) for file in FILES for one in asked(file)]
    silent = {(one.file, one.place) for one, values in found if not values}
    assert silent - set(MAY_BE_EMPTY) == NOT_IN_THIS_MODE
    assert [one for one, values in found if not all(map(math.isfinite, values))] == []


def test_a_share_is_none_of_more_than_a_whole(story: Story) -> None:
    """What is shown as a percentage is between 0 and 100 %, although processes are added up."""
    shares = {
        (file, panel["id"])
        for file in FILES
        for panel in panels(file)
        if panel["fieldConfig"]["defaults"].get("unit") == "percentunit"
    }
    assert len(shares) > 10
    for one in (one for file in FILES for one in asked(file)):
        if (one.file, one.place) in shares - UNBOUNDED:
            assert all(0 <= value <= 1 + LATE for value in answers(story, one)), one


def test_every_query_of_the_runbook_has_an_answer(story: Story) -> None:
    """Each shows something, as with one process; an alert's own condition may have nothing to show."""
    for query in runbook_queries():
        found = story.prometheus.query(query, story.busy)
        # prometheus_client has no metrics of processes in this mode, as the runbook says.
        known = query in RULES or "process_" in query.replace("process_threads", "")
        assert known or any(math.isfinite(sample.value) for sample in found), query


def test_alerts(story: Story) -> None:
    """Every rule is evaluated. What one worker of four does is seen; replaced workers are no flapping."""
    rules = story.prometheus.rules()
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
    assert recorded
    assert [name for name in recorded if not story.prometheus.query(name, story.busy)] == []
    assert {name for _, name in story.alerts} & UNSEEN == set()


def test_numbers_are_those_of_the_clients(story: Story) -> None:
    """Counters are exact, of replaced workers as well; gauges are the sums over the four."""
    for pool in POOLS:
        for metric, label, words in (("completed", "result", RESULTS), ("dropped", "reason", REASONS)):
            for word in words:
                series = f'workerpool_{metric}_total{{pool="{pool}", {label}="{word}"}}'
                story.comes_to(series, story.counts[pool, word])
        admitted = sum(story.counts[pool, one] for one in (*RESULTS, *DROPPED_LATER, "running"))
        story.comes_to(f'workerpool_submitted_total{{pool="{pool}"}}', admitted)
        story.comes_to(f'sum(workerpool_breaker_state{{pool="{pool}"}})', WORKERS)
    assert all(story.counts["orders", one] for one in (*RESULTS, "expired", "full", "running"))
    assert story.counts["payments", "breaker_open"] == 2
    assert story.counts["imports", "shutdown"] == QUEUE
    for metric, number in (
        ("queue_capacity", WORKERS * QUEUE),
        ("workers", WORKERS * THREADS),
        ("workers_busy", 1),
        ("hung_tasks", 1),
        ("queue_depth", 0),
    ):
        story.comes_to(f'workerpool_{metric}{{pool="orders"}}', number)


@pytest.mark.parametrize(
    ("place", "pool", "shown"),
    [
        (15, "orders", {"": 1}),
        (61, "payments", {"": 2}),
        (61, "orders", {"": 0}),
        (65, "payments", {"closed": 3, "open": 1, "half_open": 0}),
    ],
    ids=["hung", "worst-breaker", "no-breaker", "breakers-by-state"],
)
def test_one_worker_of_four_is_shown(story: Story, place: int, pool: str, shown: dict[str, float]) -> None:
    """A dashboard shows what hangs in one worker, and that the breaker of one is open."""
    (one,) = (one for one in asked("pool") if one.place == place)
    found = story.prometheus.query(View(chosen={"pool": pool}).expand("pool", one.expr))
    assert {sample.labels.get("state", ""): sample.value for sample in found} == shown


def test_what_is_not_there(story: Story) -> None:
    """A scrape has no label for the process, no metrics of processes and no exemplars."""
    assert story.prometheus.label_values("pid") == []
    assert story.prometheus.query('{__name__=~"process_.+"}', story.busy) == []
    assert story.prometheus.exemplars('{__name__=~"workerpool_.+"}', story.busy - 300, story.busy) == []
