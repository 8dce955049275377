"""Replaying the incidents side by side under one real Prometheus, and reading what it made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prodpool.monitoring.export import render_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.observe.prometheus import Line, Prometheus
from tools.incidents.bare import resident
from tools.incidents.follow import follow
from tools.incidents.past import Calm, scrape, write
from tools.incidents.scene import Proportions, Scene
from tools.incidents.source import BACKLOG

# Of calm before, times the scale of the windows: PoolSlowdown looks at an hour of yesterday.
HOURS = 26
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


@dataclass(frozen=True, slots=True)
class Stage:
    """Services whose incidents have begun, and the Prometheus that watches them.

    Attributes:
        onset: When the incident of each scene began, by its name, as a unix time in seconds.
        memory: Bytes that each service had then.
    """

    scenes: Sequence[Scene]
    prometheus: Prometheus
    onset: Mapping[str, float]
    memory: Mapping[str, int]


def replay(
    plan: Plan, kinds: Sequence[type[Scene]], tell: Callable[[str], None], folder: Path | None = None
) -> dict[str, Any]:
    """Replay incidents side by side and return the findings of each by its name.

    ``folder`` keeps the services' logs, each as ``<name>.log``; by default they are gone at the end.

    Raises:
        RuntimeError: An alert fired before there was a reason to.
    """
    with staged(plan, kinds, tell, folder) as stage:
        ways = _sit_through(stage, plan, tell)
        return {scene.name: _findings(scene, stage, plan) | ways[scene.name] for scene in stage.scenes}


@contextmanager
def staged(
    plan: Plan, kinds: Sequence[type[Scene]], tell: Callable[[str], None], folder: Path | None = None
) -> Iterator[Stage]:
    """Have the incidents just begun inside the ``with`` block, after a calm that reaches back for a day.

    Raises:
        RuntimeError: An alert fired before there was a reason to.
    """
    with ExitStack() as running:
        folder = folder or Path(running.enter_context(TemporaryDirectory(prefix="prodpool-incidents-")))
        scenes = []
        for kind in kinds:
            began = time.time()
            scene = running.enter_context(kind(folder, plan.proportions))
            scenes.append((scene, began))
        tell(f"calm for {plan.calm:g} s")
        calms = list(_watch(scenes, plan.calm))
        write(calms, plan.settings.window_scale, HOURS, plan.interval, folder)
        prometheus = running.enter_context(_prometheus(plan, calms, folder))
        prometheus.wait_for(f"count(count_over_time(up[1h]) > 3) == {len(calms)}", timeout=600)
        if early := prometheus.query('ALERTS{alertstate="firing"}'):
            raise RuntimeError(f"firing before anything happened: {[one.labels for one in early]}")
        memory = {scene.name: resident(scene.pid) for scene, _ in scenes}
        onset = {scene.name: _strike(scene) for scene, _ in scenes}
        yield Stage([scene for scene, _ in scenes], prometheus, onset, memory)


def _watch(scenes: list[tuple[Scene, float]], seconds: float) -> Iterator[Calm]:
    # The first of it is not calm: connections are made.
    time.sleep(seconds / 4)
    targets = [(scene, address, began) for scene, began in scenes for address in scene.addresses]
    first = [(scrape(address), time.monotonic()) for _, address, _ in targets]
    time.sleep(seconds * 3 / 4)
    for (scene, address, began), (before, at) in zip(targets, first, strict=True):
        after = scrape(address)
        yield Calm(scene.name, address, began, time.monotonic() - at, before, after)


def _prometheus(plan: Plan, calms: list[Calm], folder: Path) -> Prometheus:
    for name, text in render_files("alerts", plan.settings).items():
        (folder / name).write_text(text)
    return Prometheus(
        folder,
        {job: [calm.address for calm in calms if calm.job == job] for job in {calm.job for calm in calms}},
        rule_files=[folder / "prodpool.rules.yml"],
        interval=plan.interval,
    )


def _strike(scene: Scene) -> float:
    scene.strike()
    return time.time()


def _sit_through(stage: Stage, plan: Plan, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Wait, and tell of each alert when it is first seen.

    Returns:
        By scene, along which ``way`` the runbook's triage leads, and after how many seconds it was followed:
        when the first alert had fired, else at the end.
    """
    prometheus, ways = stage.prometheus, dict[str, dict[str, Any]]()
    began, seen = time.monotonic(), set[tuple[str, str]]()

    def follow_triage(scene: Scene, passed: float) -> None:
        if scene.name not in ways:
            way = follow(prometheus, plan.settings, job=scene.name, log=scene.log, pid=scene.pid)
            ways[scene.name] = {"way": way, "followed_after": round(passed, 1)}
            tell(f"{passed:6.1f} s  {scene.name}: {' > '.join(way)}")

    while (passed := time.monotonic() - began) < plan.seconds:
        for alert in prometheus.alerts():
            labels = alert["labels"]
            where = f"{labels['job']} {labels.get('pool', labels.get('instance'))}"
            key = (where, labels["alertname"])
            if alert["state"] == "firing" and key not in seen:
                seen.add(key)
                tell(f"{passed:6.1f} s  {where}: {labels['alertname']} ({labels['severity']})")
                for scene in stage.scenes:
                    if scene.name == labels["job"]:
                        follow_triage(scene, passed)
        time.sleep(prometheus.interval)
    for scene in stage.scenes:
        follow_triage(scene, plan.seconds)
    return ways


def _findings(scene: Scene, stage: Stage, plan: Plan) -> dict[str, Any]:
    prometheus, onset, step = stage.prometheus, stage.onset[scene.name], plan.interval
    end = onset + plan.seconds
    lines = prometheus.query_range(
        f'ALERTS{{alertstate="firing", job="{scene.name}"}}', onset, time.time(), step
    )
    firings = [
        {
            "alert": line.labels["alertname"],
            "severity": line.labels["severity"],
            # What a process as a whole lacks is no pool's.
            "pool": line.labels.get("pool"),
            "after": round(line.points[0][0] - onset, 1),
        }
        for line in lines
    ]
    firings.sort(key=lambda one: (one["after"], one["severity"], one["alert"]))
    backlog = prometheus.query(f'{BACKLOG}{{job="{scene.name}"}}')
    return {
        "cause": scene.cause,
        "firings": firings,
        "seconds": plan.seconds,
        "memory_before": round(stage.memory[scene.name] / MEGABYTE),
        "memory_after": round(resident(scene.pid) / MEGABYTE),
        "source_backlog": round(backlog[0].value) if backlog else None,
        "pools": {
            pool: _pool(f'job="{scene.name}", pool="{pool}"', prometheus, onset, end, step)
            for pool in scene.pools
        },
    }


def _pool(pool: str, prometheus: Prometheus, onset: float, end: float, step: float) -> dict[str, Any]:
    def number(expression: str, at: float) -> float:
        found = prometheus.query(expression.replace("POOL", pool), at)
        # A process may be too busy to be scraped.
        return found[0].value if found else 0.0

    def since(expression: str) -> float | None:
        return _first(prometheus.query_range(expression.replace("POOL", pool), onset, end, step), onset)

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
    # Evaluations are a moment apart: what was so at once may seem to have been so before.
    return min((max(0.0, round(line.points[0][0] - onset, 1)) for line in lines), default=None)
