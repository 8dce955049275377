"""Replaying the incidents side by side under one real Prometheus, and reading what it made of them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.observe.prometheus import Line, Prometheus
from tools.incidents.bare import resident
from tools.incidents.past import Calm, scrape, write
from tools.incidents.scenes import SCENES, Proportions, Scene
from tools.incidents.source import BACKLOG

HOURS = 6  # of calm before, times the scale of the windows
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True)
class Plan:
    """How the incidents are replayed.

    Attributes:
        settings: Thresholds and windows of the rules.
        proportions: Of the incidents.
        interval: Seconds between two scrapes and between two evaluations.
        calm: Seconds before the incidents begin, of which the past is made.
        seconds: For how long they last.
    """

    settings: AlertThresholds
    proportions: Proportions
    interval: float
    calm: float
    seconds: float


def replay(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Replay all incidents at once and return the findings of each by its name.

    Raises:
        RuntimeError: An alert fired before there was a reason to.
    """
    with tempfile.TemporaryDirectory(prefix="prodpool-incidents-") as temporary, ExitStack() as running:
        folder = Path(temporary)
        scenes, calms = [], []
        for kind in SCENES:
            began = time.time()
            scene = running.enter_context(kind(folder, plan.proportions))
            scenes.append((scene, began))
        tell(f"calm for {plan.calm:g} s")
        calms = list(_watch(scenes, plan.calm))
        write(calms, HOURS * 3600 * plan.settings.window_scale, plan.interval, folder)
        prometheus = running.enter_context(_prometheus(plan, calms, folder))
        prometheus.wait_for(f"count(count_over_time(up[1h]) > 3) == {len(scenes)}", timeout=600)
        if early := prometheus.query('ALERTS{alertstate="firing"}'):
            raise RuntimeError(f"firing before anything happened: {[one.labels for one in early]}")
        memory = {scene.name: resident(scene.pid) for scene, _ in scenes}
        onset = {scene.name: _strike(scene) for scene, _ in scenes}
        _sit_through(prometheus, plan.seconds, tell)
        return {
            scene.name: _findings(scene, prometheus, onset[scene.name], memory[scene.name], plan)
            for scene, _ in scenes
        }


def _watch(scenes: list[tuple[Scene, float]], seconds: float) -> Iterator[Calm]:
    # The first of it is not calm: connections are made.
    time.sleep(seconds / 4)
    first = [(scrape(scene.address), time.monotonic()) for scene, _ in scenes]
    time.sleep(seconds * 3 / 4)
    for (scene, began), (before, at) in zip(scenes, first, strict=True):
        after = scrape(scene.address)
        yield Calm(scene.name, scene.address, began, time.monotonic() - at, before, after)


def _prometheus(plan: Plan, calms: list[Calm], folder: Path) -> Prometheus:
    for name, text in render_files("alerts", plan.settings).items():
        (folder / name).write_text(text)
    return Prometheus(
        folder,
        {calm.job: [calm.address] for calm in calms},
        rule_files=[folder / "prodpool.rules.yml"],
        interval=plan.interval,
    )


def _strike(scene: Scene) -> float:
    scene.strike()
    return time.time()


def _sit_through(prometheus: Prometheus, seconds: float, tell: Callable[[str], None]) -> None:
    """Wait, and tell of each alert when it is first seen."""
    began, seen = time.monotonic(), set[tuple[str, str]]()
    while (passed := time.monotonic() - began) < seconds:
        for alert in prometheus.alerts():
            labels = alert["labels"]
            key = (labels["pool"], labels["alertname"])
            if alert["state"] == "firing" and key not in seen:
                seen.add(key)
                tell(f"{passed:6.1f} s  {labels['pool']}: {labels['alertname']} ({labels['severity']})")
        time.sleep(prometheus.interval)


def _findings(scene: Scene, prometheus: Prometheus, onset: float, memory: int, plan: Plan) -> dict[str, Any]:
    step, end = plan.interval, onset + plan.seconds
    lines = prometheus.query_range(
        f'ALERTS{{alertstate="firing", job="{scene.name}"}}', onset, time.time(), step
    )
    firings = [
        {
            "alert": line.labels["alertname"],
            "severity": line.labels["severity"],
            "pool": line.labels["pool"],
            "after": round(line.points[0][0] - onset, 1),
        }
        for line in lines
    ]
    backlog = prometheus.query(f'{BACKLOG}{{job="{scene.name}"}}')
    return {
        "firings": sorted(firings, key=lambda one: (one["after"], one["severity"], one["alert"])),
        "seconds": plan.seconds,
        "memory_before": round(memory / MEGABYTE),
        "memory_after": round(resident(scene.pid) / MEGABYTE),
        "source_backlog": round(backlog[0].value) if backlog else None,
        "pools": {pool: _pool(pool, prometheus, onset, end, step) for pool in scene.pools},
    }


def _pool(pool: str, prometheus: Prometheus, onset: float, end: float, step: float) -> dict[str, Any]:
    def number(expression: str, at: float) -> float:
        return prometheus.query(expression.replace("POOL", f'pool="{pool}"'), at)[0].value

    def since(expression: str) -> float | None:
        lines = prometheus.query_range(expression.replace("POOL", f'pool="{pool}"'), onset, end, step)
        return _first(lines, onset)

    window = round(end - onset)
    return {
        "workers": round(number("workerpool_workers{POOL}", end)),
        "capacity": round(number("workerpool_queue_capacity{POOL}", end)),
        "full_after": since("workerpool_queue_depth{POOL} >= 0.99 * workerpool_queue_capacity{POOL}"),
        "busy_after": since("workerpool_workers_busy{POOL} == workerpool_workers{POOL}"),
        "most_queued": round(number(f"max_over_time(workerpool_queue_depth{{POOL}}[{window}s])", end)),
        "oldest_queued": round(number("workerpool_oldest_queued_seconds{POOL}", end), 1),
        "finished_before": round(
            number(f"sum(rate(workerpool_completed_total{{POOL}}[{window}s]))", onset), 2
        ),
        "finished_at_end": round(
            number(f"sum(rate(workerpool_completed_total{{POOL}}[{max(2, window // 3)}s]))", end), 2
        ),
        "refused": round(
            number(f'sum(increase(workerpool_dropped_total{{POOL,reason="full"}}[{window}s]))', end)
        ),
    }


def _first(lines: list[Line], onset: float) -> float | None:
    return min((round(line.points[0][0] - onset, 1) for line in lines), default=None)
