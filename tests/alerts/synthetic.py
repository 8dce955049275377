"""Series made up for `promtool test rules`: a healthy pool, and what may go wrong with it.

Times are in minutes. A story is a list of (minutes, what happens in each of them).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

Story = Sequence[tuple[float, float | str]]
LADDER = ("0.01", "0.25", "1.0", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf")
RESULTS = ("ok", "error", "panic", "timeout", "cancelled", "expected")
REASONS = (
    "full", "closed", "breaker_open", "expired", "cancelled", "shutdown",
)  # fmt: skip
CAUSES = ("signal", "exit", "start", "backend")
GONE = "stale"
# Seconds that a task of a healthy pool runs, and that a thread of a healthy process is late.
MEAN, DELAY = 0.1, 0.0005


@dataclass(frozen=True)
class Pool:
    """One pool in one process, told by what changes in it; everything else stays healthy.

    Attributes:
        lasts: How long it is scraped; None for as long as the test lasts.
        counters, gauges: Stories by metric without its prefix, such as ``dropped_total{reason="full"}``;
            those of the process (``process_open_fds``) have none. A counter's story says how much is added in
            a minute, a gauge's what it shows.
        dwell, duration: The share of the tasks that took longer than each bound, where that is not none.
        counters_alone: Leave gauges and histograms out, to be quick where days go by.
        labels: Further labels of each of its series.
        per_minute: Tasks that are submitted, and finish well unless told otherwise.
    """

    name: str = "webhook_delivery"
    job: str = "service"
    instance: str = "a:1"
    lasts: float | None = None
    per_minute: float = 60.0
    counters_alone: bool = False
    counters: dict[str, Story] = field(default_factory=dict)
    gauges: dict[str, Story] = field(default_factory=dict)
    dwell: dict[str, float] = field(default_factory=dict)
    duration: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)

    def with_(self, **changes: object) -> Pool:
        """Return the same pool with other attributes."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def series(self, minutes: float, step: float) -> list[dict[str, str]]:
        """Return the input series of a test that lasts ``minutes``, with a sample every ``step`` minutes."""
        return [
            {"series": self._named(name), "values": self._cut(values, minutes, step)}
            for name, values in self._values(minutes, step)
        ]

    def _named(self, name: str) -> str:
        if name.startswith("process_"):
            return f'{name}{{job="{self.job}", instance="{self.instance}"}}'
        metric, _, labels = name.partition("{")
        mine = f'job="{self.job}", instance="{self.instance}", pool="{self.name}"'
        mine += "".join(f', {name}="{value}"' for name, value in self.labels.items())
        return f"workerpool_{metric}{{{mine}{', ' + labels[:-1] if labels else ''}}}"

    def _cut(self, values: list[str], minutes: float, step: float) -> str:
        count = round(minutes / step)
        if self.lasts is None:
            return " ".join(values[:count])
        return " ".join([*values[: round(self.lasts / step)], GONE])

    def _values(self, minutes: float, step: float) -> Iterator[tuple[str, list[str]]]:
        for name, story in {**self._healthy_counters(minutes), **self.counters}.items():
            yield name, counted(story, step)
        if self.counters_alone:
            return
        for name, story in {**self._healthy_gauges(minutes), **self.gauges}.items():
            yield name, shown(story, step)
        for metric, late in (("queue_dwell_seconds", self.dwell), ("task_duration_seconds", self.duration)):
            for bound in LADDER:
                within = 1.0 - late.get(bound, 0.0)
                story = [(minutes, self.per_minute * within)]
                yield f'{metric}_bucket{{le="{bound}"}}', counted(story, step)

    def _healthy_counters(self, minutes: float) -> dict[str, Story]:
        def steady(per_minute: float) -> Story:
            return [(minutes, per_minute)]

        return {
            "offered_total": steady(self.per_minute),
            "submitted_total": steady(self.per_minute),
            **{f'completed_total{{result="{one}"}}': steady(0) for one in RESULTS},
            'completed_total{result="ok"}': steady(self.per_minute),
            **{f'dropped_total{{reason="{one}"}}': steady(0) for one in REASONS},
            "busy_seconds_total": steady(600),
            "backend_rebuilds_total": steady(0),
            "workers_started_total": steady(0),
            **{f'workers_lost_total{{cause="{one}"}}': steady(0) for one in CAUSES},
            "task_duration_seconds_sum": steady(self.per_minute * MEAN),
            "task_duration_seconds_count": steady(self.per_minute),
            "scheduling_delay_seconds_sum": steady(60 * DELAY),
            "scheduling_delay_seconds_count": steady(60),
        }

    def _healthy_gauges(self, minutes: float) -> dict[str, Story]:
        values = {
            "queue_depth": 3, "queue_capacity": 100, "workers": 50, "workers_busy": 10, "hung_tasks": 0,
            "oldest_queued_seconds": 0.2, "process_open_fds": 100, "process_max_fds": 1024, "info": 1,
            "stopped": 0, 'breaker_state{state="closed"}': 1, 'breaker_state{state="open"}': 0,
            'breaker_state{state="half_open"}': 0,
        }  # fmt: skip
        return {name: [(minutes, value)] for name, value in values.items()}


def counted(story: Story, step: float) -> list[str]:
    """Return the values of a counter that grows as the story says."""
    values, total = ["0"], 0.0
    for minutes, per_minute in story:
        for _ in range(round(minutes / step)):
            if isinstance(per_minute, str):
                values.append(per_minute)
            else:
                total += per_minute * step
                values.append(f"{total:.6f}")
    return values


def shown(story: Story, step: float) -> list[str]:
    """Return the values of a gauge that shows what the story says."""
    return [str(value) for minutes, value in story for _ in range(round(minutes / step))]


def times(count: int, *story: tuple[float, float | str]) -> Story:
    """Return a story told several times over."""
    return [*story] * count
