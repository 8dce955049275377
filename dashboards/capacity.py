"""Worker Pool / Capacity and SLO: what a pool needs, and how much of its error budget is left."""

from __future__ import annotations

from dashboards import promql, shared
from dashboards.frame import Board, Row
from dashboards.panels import GREEN, NEUTRAL, RED, YELLOW, Panel, Query, Steps, Text, bars, lines
from dashboards.shared import DURATION

# A week in minutes: over a week a peak is found to the minute, over less time more finely.
FINE = 10_080
BUDGET_OF = "30d"


def _by_pool(
    panel_id: int, title: str, description: str, expr: str, unit: str, steps: Steps = NEUTRAL
) -> Panel:
    query = Query(expr, "{{pool}}", now=True)
    return bars(Text(panel_id, title, description), query, unit, steps, points=FINE)


def _two_minutes() -> str:
    # Long enough to hold two scrapes a minute apart, without which there is no rate.
    return f"{promql.offered('2m', 'pool')} / 120"


def _baseline() -> list[Panel]:
    depth = promql.summed(promql.series("queue_depth"), by="pool")
    return [
        _by_pool(
            11,
            "Mean rate",
            "Tasks offered per second, over the range shown. Choose a range without incidents, a week at "
            "best, and write the six numbers down beside the pool's size.",
            f"{promql.offered(promql.RANGE, 'pool')} / $__range_s",
            "ops",
        ),
        _by_pool(
            12,
            "Peak rate",
            "Most tasks offered per second, over any two minutes of the range shown. Plan for one and a half "
            "times as much.",
            promql.peak(_two_minutes()),
            "ops",
        ),
        _by_pool(
            13,
            "Mean duration",
            "Mean run time of a task. Together with the rate it is the number of workers needed; when it "
            "doubles, so do they.",
            promql.mean(DURATION, promql.RANGE, "pool"),
            "s",
        ),
        _by_pool(
            14,
            "p99 duration",
            "Of a hundred tasks one ran longer than this. Far above the mean, it calls for a time limit in "
            "the task or for a pool of its own for the slow ones.",
            promql.quantile(0.99, DURATION, promql.RANGE, "pool"),
            "s",
        ),
        _by_pool(
            15,
            "Mean depth",
            "Mean number of waiting tasks, all instances together. If there is nearly always a queue, the "
            "pool lives at its limit: add workers.",
            promql.average(depth),
            "short",
        ),
        _by_pool(
            16,
            "Peak depth",
            "Most tasks that waited at once, all instances together. The capacity has to hold it, and more "
            "memory than all of them need.",
            promql.peak(depth),
            "short",
        ),
    ]


def _workers() -> list[Panel]:
    there = promql.summed(promql.series("workers"), by="pool")
    needed = promql.workers_needed("pool")
    return [
        lines(
            Text(
                21,
                "Workers needed against workers there",
                "Rate of the offered tasks times their mean duration (Little's law), as a share of the "
                "workers there are. Above 80 % a burst makes a queue; above 100 % the queue grows without "
                "end.",
            ),
            [Query(promql.ratio(needed, there), "{{pool}}")],
            "percentunit",
            size=(10, 8),
            top=1.2,
            limits=[(0.8, YELLOW), (1, RED)],
        ),
        bars(
            Text(
                22,
                "Workers needed at peak, a fifth to spare",
                "The most workers that the offered load would have kept busy in the range shown, times 1.2, "
                "rounded up. Not more than the dependency bears.",
            ),
            Query(f"ceil(1.2 * {promql.peak(needed)})", "{{pool}}", now=True),
            "short",
            NEUTRAL,
            size=(7, 8),
        ),
        bars(
            Text(
                23,
                "Workers there",
                "Tasks that may run at once, all instances together. Compare it with what is needed, and "
                "change it in steps while you watch the dependency.",
            ),
            Query(there, "{{pool}}", now=True),
            "short",
            NEUTRAL,
            size=(7, 8),
        ),
    ]


def _budget() -> list[Panel]:
    left = f"clamp_min(1 - {promql.burn_rate(BUDGET_OF, 'pool')}, -1)"
    return [
        bars(
            Text(
                31,
                "Error budget left over 30 days",
                "Share of the failures which the objective allows in 30 days that has not been used, by "
                "pool. With little left, ship nothing risky; at less than nothing (shown down to -100 %), "
                "mend what fails first.",
            ),
            Query(f"sort({left})", "{{pool}}", now=True),
            "percentunit",
            [(None, RED), (0.1, YELLOW), (0.5, GREEN)],
            size=(12, 8),
        ),
        shared.burn(32, ("1h", "6h", "1d", "3d")),
        shared.failure_ratio(33),
        lines(
            Text(
                34,
                "Started within 30 s",
                "Share of the started tasks that waited 30 seconds at most. It is the promise that users "
                "feel; if it falls while nothing fails, the pool is too small.",
            ),
            [Query(promql.started_within("30.0", "pool"), "{{pool}}")],
            "percentunit",
            top=1,
        ),
    ]


BOARD = Board(
    file="capacity",
    title="Worker Pool / Capacity and SLO",
    description="What the pools need, measured over a quiet week, and the error budget that is left.",
    since="now-7d",
    rows=[
        Row(10, "Baseline: the six numbers of a pool", _baseline()),
        Row(20, "Workers", _workers()),
        Row(30, "Error budget", _budget()),
    ],
)
