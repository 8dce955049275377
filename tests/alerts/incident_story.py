"""An hour with an incident as a Prometheus stored it, one sample every 15 s.

What a postmortem says of it can be worked out by hand from what is written here: 150 tasks a step in each
instance; in the 40 steps of `SUFFERS` instance a:1 finishes 100, fails 20 and refuses 30.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from tests.support import missing

STEP = 15
RESULTS = ("ok", "error", "panic", "timeout")
REASONS = ("full", "closed", "breaker_open", "expired", "cancelled", "shutdown")
Spell = tuple[str, str]
SUFFERS = ("10:10:15", "10:20:00")


def unix(clock: str) -> int:
    """Return the unix time of a time of the incident's day, in UTC."""
    return int(datetime.fromisoformat(f"2025-03-04T{clock}Z").timestamp())


def steps(first: str, last: str) -> range:
    """Return the steps from one time to another, both included."""
    return range(unix(first), unix(last) + 1, STEP)


# A breaker that opens and closes at every step: 40 changes, the first at 10:20:15, the last at 10:30:00.
FLAPS = steps("10:20:00", "10:30:00")


@dataclass
class Story:
    """Series that are put together by family and written as blocks of Prometheus's data."""

    families: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, family: str, series: str, times: range, values: Mapping[int, float]) -> None:
        """Add a series with one sample at each time, 0 where there is no value for it."""
        self.families[family] += [f"{series} {values.get(time, 0)} {time}" for time in times]

    def gauge(self, name: str, labels: str, times: range, usual: float, *others: tuple[Spell, float]) -> None:
        """Add a gauge that shows other values at some times."""
        other = {time: value for spell, value in others for time in steps(*spell)}
        self.add(name, f"{name}{{{labels}}}", times, {time: other.get(time, usual) for time in times})

    def counter(
        self,
        name: str,
        labels: str,
        times: range,
        usual: int,
        *,
        bad: int = 0,
        first: int = 0,
        anew: str = "",
    ) -> None:
        """Add a counter that grows by another number while a:1 suffers, and begins anew with ``first``."""
        suffers, restarts = steps(*SUFFERS), unix(anew) if anew else 0
        values = {times[0]: first if not anew else 0}
        for before, time in pairwise(times):
            grows = bad if "a:1" in labels and time in suffers else usual
            values[time] = first if time == restarts else values[before] + grows
        self.add(name.removesuffix("_total"), f"{name}{{{labels}}}", times, values)

    def alert(self, name: str, severity: str, labels: str, pending: Spell, firing: Spell | None) -> None:
        """Add an alert. Its end is a 0: Prometheus looks 5 minutes back for samples that are not there."""
        for state, spell in (("pending", pending), *((("firing", firing),) if firing else ())):
            own = f'alertname="{name}",severity="{severity}",component="workerpool",{labels}'
            active = steps(*spell)
            times = range(active[0], active[-1] + 301, STEP)
            self.add("ALERTS", f'ALERTS{{{own},alertstate="{state}"}}', times, dict.fromkeys(active, 1))

        since = (
            f'ALERTS_FOR_STATE{{alertname="{name}",severity="{severity}",component="workerpool",{labels}}}'
        )
        active = steps(pending[0], (firing or pending)[1])
        self.add("ALERTS_FOR_STATE", since, active, dict.fromkeys(active, active[0]))

    def __add__(self, other: Story) -> Story:
        """Return both stories in one."""
        both = Story()
        for families in (self.families, other.families):
            for family, lines in families.items():
                both.families[family] += lines
        return both

    def text(self) -> Iterator[str]:
        """Yield the lines of an OpenMetrics page."""
        for family, lines in self.families.items():
            counts = any(f"{family}_total{{" in line for line in lines[:1])
            yield f"# TYPE {family} {'counter' if counts else 'gauge'}"
            yield from lines
        yield "# EOF"

    def write(self, folder: Path) -> None:
        """Write the blocks to where a Prometheus of this folder has its data."""
        promtool = shutil.which("promtool") or missing("promtool", "run: apt-get install prometheus")
        page = folder / "story.om"
        page.write_text("\n".join([*self.text(), ""]))
        command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(page), str(folder / "data")]
        subprocess.run(command, check=True, capture_output=True, timeout=30)


def add_pool(story: Story, name: str, instance: str, times: range, *, first: int = 0, anew: str = "") -> None:
    """Add one pool in one instance; the one called `webhooks` suffers."""
    pool = f'job="service",instance="{instance}",pool="{name}"'
    hit = name == "webhooks"

    def counter(metric: str, more: str, usual: int, bad: int) -> None:
        began = first if usual else 0
        grows = bad if hit else usual
        story.counter(f"workerpool_{metric}", pool + more, times, usual, bad=grows, first=began, anew=anew)

    counter("submitted_total", "", 150, 120)
    for result in RESULTS:
        grows = {"ok": (150, 100), "error": (0, 20)}.get(result, (0, 0))
        counter("completed_total", f',result="{result}"', *grows)
    for reason in REASONS:
        counter("dropped_total", f',reason="{reason}"', *((0, 30) if reason == "full" else (0, 0)))
    counter("backend_rebuilds_total", "", 0, 0)
    # 0.2 s a task; one in a hundred, at the most, takes longer than 0.25 s.
    for bound, share in (("0.1", 0.0), ("0.25", 1.0), ("+Inf", 1.0)):
        story.add(
            "workerpool_task_duration_seconds",
            f'workerpool_task_duration_seconds_bucket{{{pool},le="{bound}"}}',
            times,
            {time: 150 * share * number for number, time in enumerate(times)},
        )
    for ending, each in (("sum", 30.0), ("count", 150.0)):
        story.add(
            "workerpool_task_duration_seconds",
            f"workerpool_task_duration_seconds_{ending}{{{pool}}}",
            times,
            {time: each * number for number, time in enumerate(times)},
        )


def add_gauges(story: Story, name: str, instance: str, times: range, version: str = "0.1.0") -> None:
    """Add the gauges of one pool in one instance."""
    pool = f'job="service",instance="{instance}",pool="{name}"'
    hit = (SUFFERS,) if name == "webhooks" and instance == "a:1" else ()

    def gauge(metric: str, usual: float, *others: tuple[Spell, float], more: str = "") -> None:
        story.gauge(f"workerpool_{metric}", pool + more, times, usual, *others)

    grown = ((("10:25:00", "11:00:00"), 75.0),) if hit else ()
    stopped = ((("10:39:45", "10:40:00"), 1.0),) if instance == "b:1" else ()
    gauge("workers", 50, *grown)
    gauge("queue_capacity", 100)
    gauge("queue_depth", 3, *((spell, 100.0) for spell in hit))
    gauge("hung_tasks", 0, *((("10:11:00", "10:19:00"), 2.0) for _ in hit))
    gauge("oldest_queued_seconds", 0.5, *((("10:15:00", "10:15:00"), 42.5) for _ in hit))
    gauge("stopped", 0, *stopped)
    opened, half = ("10:12:00", "10:17:45"), ("10:18:00", "10:18:00")
    for state in ("closed", "open", "half_open"):
        others = {
            "closed": ((opened, 0.0), (half, 0.0)), "open": ((opened, 1.0),), "half_open": ((half, 1.0),),
        }[state] if hit else ()  # fmt: skip
        gauge("breaker_state", float(state == "closed"), *others, more=f',state="{state}"')
    runs = (
        {version: times}
        if not hit
        else {"0.1.0": steps("09:00", "10:30:00"), "0.2.0": steps("10:30:15", "11:00")}
    )
    for each, there in runs.items():
        info = f'{pool},backend="threads",version="{each}"'
        story.gauge("workerpool_info", info, there, 1)


def incident() -> Story:
    """Return the story: `webhooks` suffers, is deployed anew and moved; `thumbnails` is well."""
    story = Story()
    lives = {"a:1": steps("09:00", "11:00"), "b:1": steps("09:00", "10:40"), "c:1": steps("10:41", "11:00")}
    add_pool(story, "webhooks", "a:1", lives["a:1"], first=60, anew="10:30:15")
    add_pool(story, "webhooks", "b:1", lives["b:1"])
    add_pool(story, "webhooks", "c:1", lives["c:1"], first=90)
    add_pool(story, "thumbnails", "b:1", lives["b:1"])
    for instance, times in lives.items():
        add_gauges(story, "webhooks", instance, times, "0.2.0" if instance == "c:1" else "0.1.0")
    add_gauges(story, "thumbnails", "b:1", lives["b:1"])
    starts = {"a:1": ("08:00:00", "10:30:07"), "b:1": ("08:00:00", ""), "c:1": ("10:40:50", "")}
    for instance, (started, again) in starts.items():
        anew = [(("10:30:15", "11:00:00"), float(unix(again)))] if again else []
        labels = f'job="service",instance="{instance}"'
        story.gauge("process_start_time_seconds", labels, lives[instance], unix(started), *anew)
    pool = 'job="service",pool="webhooks"'
    alert = story.alert
    alert("PoolDropping", "warning", pool, ("10:10:30", "10:15:15"), ("10:15:30", "10:23:45"))
    alert("PoolErrorBudgetBurn1h", "critical", pool, ("10:15:00", "10:16:45"), ("10:17:00", "10:22:45"))
    alert("PoolQueueSaturated", "warning", f'{pool},instance="a:1"', ("10:16:00", "10:19:45"), None)
    process = ",".join(label for label in pool.split(",") if not label.startswith("pool="))
    starved = ("10:12:00", "10:14:45"), ("10:15:00", "10:19:00")
    alert("PoolStarved", "warning", f'{process},instance="a:1"', *starved)
    return story


def newer() -> Story:
    """Return a pool whose version counts also what is offered, abandoned and lost, and more results."""
    story = Story()
    # A label of the target may be called as one of the metrics is.
    labels, times = 'job="newer",instance="d:1",version="v7",pool="reports"', steps("10:00", "11:00")
    story.gauge("workerpool_workers", labels, times, 8)
    story.gauge("workerpool_queue_depth", labels, times, 7)
    for metric, more, each in (
        ("offered", "", 11),
        ("submitted", "", 9),
        ("completed", ',result="ok"', 4),
        ("completed", ',result="error"', 1),
        ("completed", ',result="cancelled"', 2),
        ("completed", ',result="expected"', 2),
        ("dropped", ',reason="closed"', 1),
        ("abandoned", "", 3),
        ("workers_lost", ',cause="killed"', 2),
    ):
        story.counter(f"workerpool_{metric}_total", labels + more, times, each)
    for state, usual in (("closed", 1), ("open", 0)):
        values = {time: usual ^ (time in FLAPS[1::2]) for time in times}
        series = f'workerpool_breaker_state{{{labels},state="{state}"}}'
        story.add("workerpool_breaker_state", series, times, values)
    return story
