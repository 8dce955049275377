"""Panels that more than one dashboard has."""

from __future__ import annotations

from grafana_foundation_sdk.builders import heatmap as heatmaps
from grafana_foundation_sdk.builders import stat as stats
from grafana_foundation_sdk.builders import statetimeline, timeseries

from dashboards import promql
from dashboards.panels import (
    BY_QUANTILE,
    BY_REASON,
    BY_RESULT,
    GREEN,
    GREY,
    ORANGE,
    RED,
    YELLOW,
    Query,
    Text,
    heatmap,
    lines,
    stat,
    timeline,
)

DWELL, DURATION, ADMISSION = "queue_dwell_seconds", "task_duration_seconds", "admission_wait_seconds"
# Burn rates at which somebody is told: in time, soon, at once.
BURNING = [(1.0, YELLOW), (6.0, ORANGE), (14.4, RED)]
WINDOWS = ("5m", "1h", "6h")


def success(panel_id: int) -> stats.Panel:
    """What came of the tasks that were offered."""
    return stat(
        Text(
            panel_id,
            "Success ratio",
            "Share of the offered tasks that ended well, over the range shown. Below the objective: see "
            "Failures for the kind, and the alert's runbook page for the cause.",
        ),
        Query(f"1 - {promql.error_ratio(promql.RANGE)}", now=True),
        "percentunit",
        [(None, RED), (0.99, YELLOW), (0.995, GREEN)],
    )


def throughput(panel_id: int) -> stats.Panel:
    """How much gets done."""
    return stat(
        Text(
            panel_id,
            "Throughput",
            "Tasks finished per second, good or bad. If it falls to nothing while tasks are queued, the "
            "workers hang: look at Hung tasks.",
        ),
        Query(promql.finished(), now=True),
        "ops",
        [(None, GREEN)],
    )


def fullest(panel_id: int) -> stats.Panel:
    """How near the worst queue is to refusing."""
    return stat(
        Text(
            panel_id,
            "Worst queue fill",
            "Depth of the fullest queue as a share of its capacity. Near 100 % tasks are refused: slow the "
            "producer down or give it more workers.",
        ),
        Query(promql.fill(""), now=True),
        "percentunit",
        [(None, GREEN), (0.5, YELLOW), (0.8, RED)],
    )


def dwell_p95(panel_id: int) -> stats.Panel:
    """How long tasks wait."""
    return stat(
        Text(
            panel_id,
            "p95 dwell",
            "Of twenty tasks nineteen waited less than this in the queue, over the range shown. If it is "
            "much longer than the tasks run, the pool has too few workers for its load.",
        ),
        Query(promql.quantile(0.95, DWELL, promql.RANGE), now=True),
        "s",
        [(None, GREEN), (5, YELLOW), (30, RED)],
    )


def quantiles(
    panel_id: int, title: str, description: str, histogram: str, empty: str = "no tasks"
) -> timeseries.Panel:
    """Three quantiles of a histogram, with links to traces."""
    return lines(
        Text(panel_id, title, description),
        [
            Query(promql.quantile(float(f"0.{name[1:]}"), histogram), name, linked=True)
            for name in ("p50", "p95", "p99")
        ],
        "s",
        colours=BY_QUANTILE,
        empty=empty,
    )


def dwell(panel_id: int) -> timeseries.Panel:
    """The wait's quantiles."""
    return quantiles(
        panel_id,
        "Dwell: time in the queue",
        "Time from admission to the start of the run. Long dwell with short runs wants more workers; a point "
        "leads to the trace of a task that waited so long.",
        DWELL,
    )


def duration(panel_id: int) -> timeseries.Panel:
    """The run's quantiles."""
    return quantiles(
        panel_id,
        "Duration: time of the run",
        "Time from start to end of the run. If only p99 grows, a few calls hang: follow a point to its "
        "trace; if all grow, the dependency is slow.",
        DURATION,
    )


def spread(panel_id: int, title: str, description: str, histogram: str) -> heatmaps.Panel:
    """A histogram over time."""
    buckets = promql.summed(promql.increase(promql.RATE_INTERVAL, f"{histogram}_bucket"), by="le")
    return heatmap(Text(panel_id, title, description), Query(buckets, "{{le}}", linked=True))


def dwell_spread(panel_id: int) -> heatmaps.Panel:
    """The wait's histogram."""
    return spread(
        panel_id,
        "Dwell, all tasks",
        "Tasks per bucket of time in the queue. Two bands mean two kinds of load, a burst or a pool that is "
        "full at times: compare with the queue's depth.",
        DWELL,
    )


def duration_spread(panel_id: int) -> heatmaps.Panel:
    """The run's histogram."""
    return spread(
        panel_id,
        "Duration, all tasks",
        "Tasks per bucket of run time. Two bands mean two kinds of task: give each a pool of its own if the "
        "slow ones hold up the quick.",
        DURATION,
    )


def by_result(panel_id: int) -> timeseries.Panel:
    """How the tasks that ran ended."""
    return lines(
        Text(
            panel_id,
            "Finished, by result",
            "Tasks per second that ran to an end, by how they ended. Any panic is a bug in a task: its stack "
            "is in the log event task.panic.",
        ),
        [Query(promql.summed(promql.rate("completed_total"), by="result"), "{{result}}")],
        "ops",
        stacked=True,
        colours=BY_RESULT,
    )


def by_reason(panel_id: int) -> timeseries.Panel:
    """Why tasks never ran."""
    return lines(
        Text(
            panel_id,
            "Dropped, by reason",
            "Tasks per second that never ran, by reason. Full: too much is offered; breaker_open: the "
            "dependency is down; expired: the queue is too long; shutdown: the drain deadline is too short.",
        ),
        [Query(promql.summed(promql.rate("dropped_total"), by="reason"), "{{reason}}")],
        "ops",
        stacked=True,
        colours=BY_REASON,
    )


def failure_ratio(panel_id: int) -> timeseries.Panel:
    """The share that failed, by pool."""
    return lines(
        Text(
            panel_id,
            "Failure ratio",
            "Share of the offered tasks that failed or were lost, by pool. Find out which kind it is from "
            "the results and the reasons, then read a task.error of that pool in the log.",
        ),
        [Query(promql.error_ratio(by="pool"), "{{pool}}")],
        "percentunit",
    )


def burn(panel_id: int, windows: tuple[str, ...] = WINDOWS) -> timeseries.Panel:
    """How fast the budget goes."""
    return lines(
        Text(
            panel_id,
            "Error budget burn, worst pool",
            "How many times faster than the objective allows errors are made, over windows of several "
            "lengths. At 1 the budget of 30 days is just spent; from 14.4 somebody is paged at once.",
        ),
        [Query(f"max ({promql.burn_rate(window, 'pool')})", window) for window in windows],
        "none",
        top=16,
        limits=BURNING,
    )


def breaker(panel_id: int, by: str) -> statetimeline.Panel:
    """The breaker's states."""
    return timeline(
        Text(
            panel_id,
            "Breaker",
            "State of each breaker, the worst where there are several. Open: tasks are refused while the "
            "dependency recovers; it closes by itself, so mend the dependency.",
        ),
        Query(promql.breaker(by), f"{{{{{by}}}}}"),
        [("closed", GREEN), ("half-open", YELLOW), ("open", RED)],
    )


def lifecycle(panel_id: int, by: str) -> statetimeline.Panel:
    """Open or not."""
    return timeline(
        Text(
            panel_id,
            "Open or stopped",
            "Whether a pool takes tasks; stopped from the moment its drain begins. Outside of a deployment a "
            "stopped pool is a mistake: look for pool.draining in the log.",
        ),
        Query(f"max by ({by}) ({promql.series('stopped')})", f"{{{{{by}}}}}"),
        [("open", GREEN), ("stopped", GREY)],
    )


def hung(panel_id: int, by: str) -> timeseries.Panel:
    """Tasks that do not end."""
    return lines(
        Text(
            panel_id,
            "Hung tasks",
            "Tasks and done-callbacks that have run longer than hung_after, each of which keeps a worker. "
            "The log event task.still_running has the stack they hang in.",
        ),
        [Query(promql.summed(promql.series("hung_tasks"), by=by), f"{{{{{by}}}}}")],
        "short",
        size=(12, 6),
        top=1,
    )


def events(panel_id: int, title: str, description: str, metric: str, by: str) -> timeseries.Panel:
    """Things that should be rare, counted per interval."""
    counted = promql.summed(promql.increase(promql.RATE_INTERVAL, metric), by=by)
    return lines(
        Text(panel_id, title, description),
        [Query(counted, f"{{{{{by}}}}}")],
        "short",
        size=(12, 6),
        top=1,
    )


def rebuilds(panel_id: int, by: str) -> timeseries.Panel:
    """Broken backends."""
    return events(
        panel_id,
        "Backend rebuilds",
        "How often a worker process died and was replaced, or a backend broke and was built anew. How it "
        "died is in the log (pool.backend_rebuilt): SIGKILL is mostly the kernel's, for want of memory.",
        "backend_rebuilds_total",
        by,
    )


def telemetry_errors(panel_id: int) -> timeseries.Panel:
    """Trouble with the trouble's messengers."""
    return events(
        panel_id,
        "Telemetry errors",
        "Errors of log processors, span exporters and the like, by where they came from; no task was "
        "touched. Mend the sink, for until then these dashboards may show less than happened.",
        "telemetry_errors_total",
        "sink",
    )
