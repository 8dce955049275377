"""For each alert what makes it fire, alone, and what comes near and does not."""

from __future__ import annotations

from dataclasses import dataclass

from prodpool.monitoring.alerts import ALERTS
from tests.alerts.synthetic import GONE, MEAN, Pool, Story

OF_PROCESSES = {alert.name for alert in ALERTS if not alert.per_pool}
POOL = Pool()
BUSY = Pool(per_minute=6000)
DAY, HOUR = 1440.0, 60.0
# Minutes between two samples: as in life; for cases of hours; for cases of days.
QUARTER, ONE, LONG = 0.25, 1.0, 15.0


@dataclass(frozen=True)
class Case:
    """What is scraped, and which alerts fire for the pool that is ill, ``at`` so many minutes.

    Those that are of a process have no pool.
    """

    name: str
    at: float
    fires: set[str]
    pools: tuple[Pool, ...]
    step: float = QUARTER

    def labels(self, alert: str) -> str:
        """Return the labels with which an alert is counted."""
        pool = "" if alert in OF_PROCESSES else f', pool="{self.pools[0].name}"'
        return f'{{alertname="{alert}"{pool}}}'


def fires(alert: str, at: float, *pools: Pool, how: str = "", step: float = QUARTER) -> Case:
    """Return a case in which exactly ``alert`` fires."""
    return Case(f"{alert}-fires{'-' + how if how else ''}", at, {alert}, pools, step)


def near_miss(alert: str, how: str, at: float, *pools: Pool, step: float = QUARTER) -> Case:
    """Return a case in which ``alert`` might be thought to fire, and none does."""
    return Case(f"{alert}-near-miss-{how}", at, set(), pools, step)


def reason(word: str) -> str:
    return f'dropped_total{{reason="{word}"}}'


def result(word: str) -> str:
    return f'completed_total{{result="{word}"}}'


CLOSED, OPEN, HALF_OPEN = (f'breaker_state{{state="{one}"}}' for one in ("closed", "open", "half_open"))
LOST = 'workers_lost_total{cause="signal"}'
LARGE_QUEUE = {"queue_capacity": [(600, 5000)]}


def stopped(drain: float, refused_per_minute: float, lasts: float | None) -> Pool:
    """Return a pool that is stopped after ten minutes."""
    return POOL.with_(
        lasts=lasts,
        gauges={"stopped": [(10, 0), (drain, 1)], "queue_depth": [(600, 0)]},
        counters={
            "submitted_total": [(10, 60), (drain, 0)],
            result("ok"): [(10, 60), (drain, 0)],
            reason("closed"): [(10, 0), (drain, refused_per_minute)],
        },
    )


def failing(*story: tuple[float, float], per_minute: float = 60.0) -> Pool:
    """Return a pool of which a share of the tasks fails, as the story says."""
    return POOL.with_(
        per_minute=per_minute,
        counters_alone=True,
        counters={
            result("ok"): [(minutes, (1 - share) * per_minute) for minutes, share in story],
            result("error"): [(minutes, share * per_minute) for minutes, share in story],
        },
    )


def breaker(*story: tuple[float, str]) -> Pool:
    """Return a pool with a breaker in these states."""
    return POOL.with_(
        gauges={
            f'breaker_state{{state="{state}"}}': [(minutes, int(state == now)) for minutes, now in story]
            for state in ("closed", "open", "half_open")
        }
    )


def breakers(closed: Story, opened: Story) -> Pool:
    """Return a pool of several processes behind one instance: how many breakers are closed, how many open."""
    return POOL.with_(gauges={CLOSED: closed, OPEN: opened, HALF_OPEN: [(40, 0)]})


def storm(refused: float) -> Pool:
    """Return a pool of which so many tasks a minute are refused after 25 hours, and offered again."""
    burst = [(25 * HOUR, 0), (HOUR, refused)]
    return POOL.with_(
        counters_alone=True,
        counters={
            "offered_total": [(at, 60 + more) for at, more in burst],
            reason("full"): burst,
        },
    )


def slowed(factor: float, *, per_minute: float = 60.0, mean: float = MEAN) -> Pool:
    """Return a pool whose tasks take so many times as long after 25 hours."""
    took = per_minute * mean
    return POOL.with_(
        per_minute=per_minute,
        counters_alone=True,
        counters={"task_duration_seconds_sum": [(25 * HOUR, took), (HOUR, factor * took)]},
    )


def dying(times_: int) -> Story:
    """Return how a worker is lost every half hour, so many times."""
    return [*[(30, 0), (1, 1)] * times_, (3 * HOUR, 0)]


CASES = (
    Case("healthy-for-an-hour", 60, set(), (POOL, BUSY.with_(instance="b:1"))),
    Case("healthy-for-four-days", 4 * DAY, set(), (failing((4 * DAY, 0.001)),), LONG),
    Case(
        "a-rolling-deployment",
        12,
        set(),
        (stopped(0.5, 40, lasts=10.5), POOL.with_(instance="b:1"), POOL.with_(instance="c:1", lasts=8)),
    ),
    fires("PoolQueueGrowing", 18, POOL.with_(gauges={**LARGE_QUEUE, "queue_depth": [(10, 900), (20, 1001)]})),
    fires(
        "PoolQueueGrowing",
        18,
        POOL.with_(gauges={**LARGE_QUEUE, "queue_depth": [(10, 900), (4, 1001), (0.25, GONE), (10, 1001)]}),
        how="although-a-scrape-fails",
    ),
    near_miss(
        "PoolQueueGrowing",
        "at-the-bound",
        60,
        POOL.with_(gauges={**LARGE_QUEUE, "queue_depth": [(60, 1000)]}),
    ),
    fires(
        "PoolQueueGrowing",
        18,
        POOL.with_(gauges={"queue_depth": [(10, 45), (20, 51)]}),
        how="in-a-small-queue",
    ),
    near_miss(
        "PoolQueueGrowing", "half-of-a-small-queue", 60, POOL.with_(gauges={"queue_depth": [(60, 50)]})
    ),
    near_miss(
        "PoolQueueGrowing",
        "for-five-minutes",
        16,
        POOL.with_(gauges={**LARGE_QUEUE, "queue_depth": [(10, 900), (5, 1001), (10, 900)]}),
    ),
    fires("PoolStopped", 13, stopped(20, 4, lasts=None)),
    near_miss("PoolStopped", "while-a-deployment-drains", 11, stopped(0.9, 40, lasts=10.9)),
    near_miss("PoolStopped", "after-a-deployment", 12.5, stopped(0.9, 40, lasts=10.9)),
    near_miss("PoolStopped", "on-purpose", 50, stopped(45, 0, lasts=None)),
    fires("PoolPanicRate", 20, BUSY.with_(counters={result("panic"): [(10, 0), (20, 9)]})),
    near_miss("PoolPanicRate", "below", 18, BUSY.with_(counters={result("panic"): [(10, 0), (20, 5.5)]})),
    near_miss(
        "PoolPanicRate", "a-burst", 20, BUSY.with_(counters={result("panic"): [(10, 0), (1, 40), (20, 0)]})
    ),
    fires("PoolDropping", 19, POOL.with_(counters={reason("full"): [(10, 0), (20, 0.5)]})),
    fires("PoolDropping", 19, POOL.with_(counters={reason("expired"): [(10, 0), (20, 0.5)]}), how="expired"),
    near_miss(
        "PoolDropping", "a-burst", 15, POOL.with_(counters={reason("full"): [(10, 0), (0.25, 200), (20, 0)]})
    ),
    near_miss("PoolDropping", "cancelled", 50, POOL.with_(counters={reason("cancelled"): [(60, 30)]})),
    fires("PoolSlowTasks", 20, POOL.with_(duration={"0.01": 0.1, "0.25": 0.02, "1.0": 0.02, "5.0": 0.02})),
    near_miss(
        "PoolSlowTasks", "one-in-200", 60, POOL.with_(duration={"0.25": 0.5, "1.0": 0.1, "5.0": 0.005})
    ),
    near_miss("PoolSlowTasks", "no-traffic", 60, POOL.with_(per_minute=0, gauges={"queue_depth": [(60, 0)]})),
    fires("PoolErrorBudgetBurn1h", 6 * HOUR + 8, failing((6 * HOUR, 0), (20, 1)), step=ONE),
    near_miss("PoolErrorBudgetBurn1h", "below", 50, failing((HOUR, 0.025)), step=ONE),
    near_miss(
        "PoolErrorBudgetBurn1h", "over", 6 * HOUR + 25, failing((6 * HOUR, 0), (9, 1), (20, 0)), step=ONE
    ),
    near_miss(
        "PoolErrorBudgetBurn1h", "few-tasks", 5 * HOUR, failing((5 * HOUR, 1), per_minute=0.2), step=ONE
    ),
    fires("PoolErrorBudgetBurn6h", 3 * DAY + 5.5 * HOUR, failing((3 * DAY, 0), (6 * HOUR, 0.04)), step=LONG),
    near_miss(
        "PoolErrorBudgetBurn6h",
        "over",
        3 * DAY + 7 * HOUR,
        failing((3 * DAY, 0), (5 * HOUR, 0.04), (3 * HOUR, 0)),
        step=LONG,
    ),
    fires(
        "PoolErrorBudgetBurn1d", 3 * DAY + 16.5 * HOUR, failing((3 * DAY, 0), (17 * HOUR, 0.025)), step=LONG
    ),
    near_miss(
        "PoolErrorBudgetBurn1d", "below", 3 * DAY + 23 * HOUR, failing((3 * DAY, 0), (DAY, 0.0149)), step=LONG
    ),
    fires("PoolErrorBudgetBurn3d", 5 * HOUR, failing((6 * HOUR, 0.008)), step=LONG),
    near_miss("PoolErrorBudgetBurn3d", "below", 5 * HOUR, failing((6 * HOUR, 0.0049)), step=LONG),
    near_miss(
        "PoolErrorBudgetBurn3d",
        "cancelled-or-closed",
        5 * HOUR,
        POOL.with_(
            counters_alone=True,
            counters={reason("cancelled"): [(6 * HOUR, 3)], reason("closed"): [(6 * HOUR, 3)]},
        ),
        step=LONG,
    ),
    near_miss(
        "PoolErrorBudgetBurn3d",
        "no-failures",
        5 * HOUR,
        POOL.with_(counters={result("cancelled"): [(6 * HOUR, 3)], result("expected"): [(6 * HOUR, 3)]}),
        step=LONG,
    ),
    fires(
        "PoolStalled",
        18.5,
        POOL.with_(counters={result("ok"): [(10, 60), (20, 0)]}, gauges={"queue_depth": [(10, 3), (20, 18)]}),
    ),
    near_miss(
        "PoolStalled",
        "one-finishes-now-and-then",
        37.5,
        POOL.with_(
            counters={result("ok"): [(10, 60), *[(3.75, 0), (0.25, 4)] * 9]},
            gauges={"queue_depth": [(10, 3), (40, 18)]},
        ),
    ),
    near_miss(
        "PoolStalled",
        "nothing-to-do",
        40,
        POOL.with_(per_minute=0, gauges={"queue_depth": [(60, 0)]}),
    ),
    fires(
        "PoolQueueSaturated",
        47,
        POOL.with_(gauges={"queue_depth": [(1, 2 * one) for one in range(50)]}),
        how="and-still-grows",
    ),
    fires("PoolQueueSaturated", 8, POOL.with_(gauges={"queue_depth": [(60, 81)]})),
    Case(
        "PoolQueueSaturated-near-miss-at-the-bound",
        60,
        {"PoolQueueGrowing"},
        (POOL.with_(gauges={"queue_depth": [(60, 80)]}),),
    ),
    near_miss(
        "PoolQueueSaturated",
        "no-queue",
        60,
        POOL.with_(gauges={"queue_depth": [(60, 0)], "queue_capacity": [(60, 0)]}),
    ),
    fires("PoolQueueFillingUp", 20, POOL.with_(gauges={"queue_depth": [(1, 3 * one) for one in range(30)]})),
    near_miss(
        "PoolQueueFillingUp",
        "too-slowly",
        60,
        POOL.with_(gauges={"queue_depth": [(1, one) for one in range(61)], "queue_capacity": [(61, 121)]}),
        step=ONE,
    ),
    near_miss(
        "PoolQueueFillingUp",
        "in-waves",
        120,
        POOL.with_(gauges={"queue_depth": [(1, 6 * min(one % 20, 20 - one % 20)) for one in range(121)]}),
        step=ONE,
    ),
    fires(
        "PoolDwellHigh",
        20,
        POOL.with_(dwell={"0.01": 0.3, "0.25": 0.2, "1.0": 0.1, "5.0": 0.08, "10.0": 0.07, "30.0": 0.06}),
    ),
    near_miss(
        "PoolDwellHigh",
        "one-in-25",
        60,
        POOL.with_(dwell={"0.01": 0.3, "5.0": 0.08, "10.0": 0.06, "30.0": 0.04}),
    ),
    fires("PoolWorkersSaturated", 40, POOL.with_(counters={"busy_seconds_total": [(60, 2900)]})),
    near_miss("PoolWorkersSaturated", "below", 60, POOL.with_(counters={"busy_seconds_total": [(60, 2840)]})),
    near_miss(
        "PoolWorkersSaturated",
        "for-half-an-hour",
        60,
        POOL.with_(counters={"busy_seconds_total": [(20, 600), (30, 3000), (20, 600)]}),
    ),
    fires("PoolHungTasks", 13, POOL.with_(gauges={"hung_tasks": [(10, 0), (20, 1)]})),
    fires(
        "PoolHungTasks",
        13,
        POOL.with_(gauges={"hung_tasks": [(10, 0), (1, 1), (0.25, GONE), (20, 1)]}),
        how="although-a-scrape-fails",
    ),
    near_miss(
        "PoolHungTasks", "for-a-minute", 12, POOL.with_(gauges={"hung_tasks": [(10, 0), (1, 1), (9, 0)]})
    ),
    Case(
        "PoolWorkersHung-fires",
        13.5,
        {"PoolWorkersHung", "PoolHungTasks"},
        (POOL.with_(gauges={"hung_tasks": [(10, 0), (20, 25)], "workers_busy": [(10, 20), (20, 50)]}),),
    ),
    Case(
        "PoolWorkersHung-near-miss-nearly-half",
        29,
        {"PoolHungTasks"},
        (POOL.with_(gauges={"hung_tasks": [(10, 0), (20, 24)], "workers_busy": [(10, 20), (20, 50)]}),),
    ),
    fires("PoolOldestQueued", 14, POOL.with_(gauges={"oldest_queued_seconds": [(10, 0.2), (10, 31)]})),
    near_miss(
        "PoolOldestQueued",
        "for-two-minutes",
        13,
        POOL.with_(gauges={"oldest_queued_seconds": [(10, 0.2), (2, 40), (9, 1)]}),
    ),
    Case(
        "PoolOldestQueuedCritical-fires",
        18,
        {"PoolOldestQueued", "PoolOldestQueuedCritical"},
        (POOL.with_(gauges={"oldest_queued_seconds": [(10, 0.2), (20, 301)]}),),
    ),
    Case(
        "PoolOldestQueuedCritical-near-miss-at-the-bound",
        29,
        {"PoolOldestQueued"},
        (POOL.with_(gauges={"oldest_queued_seconds": [(10, 0.2), (20, 300)]}),),
    ),
    # What is refused is lost work as well.
    Case(
        "PoolRetryStorm-fires",
        25 * HOUR + 9,
        {"PoolRetryStorm", "PoolDropping", "PoolErrorBudgetBurn1h"},
        (storm(refused=12_000),),
        ONE,
    ),
    # Sixty a minute are admitted, as many as finish.
    Case(
        "PoolRetryStorm-near-miss-a-busy-day",
        25 * HOUR + 9,
        {"PoolDropping", "PoolErrorBudgetBurn1h"},
        (storm(refused=100),),
        ONE,
    ),
    fires("PoolSlowdown", 25 * HOUR + 9, slowed(2.2), step=ONE),
    near_miss("PoolSlowdown", "a-little", 25 * HOUR + 50, slowed(1.9), step=ONE),
    near_miss("PoolSlowdown", "for-few-tasks", 25 * HOUR + 50, slowed(9.0, per_minute=0.3), step=ONE),
    near_miss("PoolSlowdown", "of-what-is-fast", 25 * HOUR + 50, slowed(3.0, mean=0.003), step=ONE),
    fires("PoolStarved", 15, POOL.with_(counters={"scheduling_delay_seconds_sum": [(10, 0.03), (10, 3)]})),
    near_miss("PoolStarved", "below", 60, POOL.with_(counters={"scheduling_delay_seconds_sum": [(60, 1.1)]})),
    fires("PoolDescriptorsHigh", 14, POOL.with_(gauges={"process_open_fds": [(10, 100), (10, 820)]})),
    near_miss(
        "PoolDescriptorsHigh", "at-the-bound", 60, POOL.with_(gauges={"process_open_fds": [(60, 819)]})
    ),
    fires("PoolChurning", 18, POOL.with_(counters={"workers_started_total": [(10, 0), (10, 60)]})),
    near_miss(
        "PoolChurning",
        "a-start",
        60,
        POOL.with_(counters={"workers_started_total": [(10, 0), (1, 200), (60, 0)]}),
    ),
    fires("PoolWorkersDying", 3 * HOUR, POOL.with_(counters={LOST: dying(3)}), step=ONE),
    near_miss("PoolWorkersDying", "twice", 3 * HOUR, POOL.with_(counters={LOST: dying(2)}), step=ONE),
    fires("PoolBreakerOpen", 17, breaker((10, "closed"), (3, "open"), (0.25, "half_open"), (20, "open"))),
    fires(
        "PoolBreakerOpen",
        17,
        breakers(closed=[(10, 4), (30, 3)], opened=[(10, 0), (30, 1)]),
        how="in-one-of-four-processes",
    ),
    near_miss(
        "PoolBreakerOpen",
        "but-a-process-more-and-one-less",
        30,
        breakers(closed=[(10, 4), (10, 5), (20, 3)], opened=[(40, 0)]),
    ),
    fires(
        "PoolBreakerOpen",
        17,
        breakers(closed=[(10, 4), *[(0.5, 3), (0.25, 2)] * 12], opened=[(10, 0), (30, 1)]),
        how="in-one-of-four-processes-while-others-are-replaced",
    ),
    near_miss("PoolBreakerOpen", "for-five-minutes", 16, breaker((10, "closed"), (5, "open"), (9, "closed"))),
    fires("PoolBreakerFlapping", 20, breaker(*[(0.5, "closed"), (0.25, "open")] * 30), how="quickly"),
    fires("PoolBreakerFlapping", 20, breaker(*[(4, "closed"), (0.5, "open")] * 6)),
    fires(
        "PoolBreakerFlapping",
        20,
        breakers(closed=[(0.5, 4), (0.25, 3)] * 30, opened=[(0.5, 0), (0.25, 1)] * 30),
        how="in-one-of-four-processes",
    ),
    near_miss(
        "PoolBreakerFlapping",
        "but-processes-are-replaced",
        20,
        breakers(closed=[(0.5, 4), (0.25, 3)] * 30, opened=[(40, 0)]),
    ),
    near_miss(
        "PoolBreakerFlapping",
        "twice",
        12,
        breaker((1, "closed"), *[(2, "closed"), (2, "open")] * 2, (9, "closed")),
    ),
    fires(
        "PoolBackendRebuilding",
        15,
        POOL.with_(counters={"backend_rebuilds_total": [(3, 0), *[(0.25, 4), (3, 0)] * 3, (9, 0)]}),
    ),
    near_miss(
        "PoolBackendRebuilding",
        "twice",
        16.4,  # when two rebuilds are 2.03 to increase()
        POOL.with_(counters={"backend_rebuilds_total": [(3, 0), *[(0.25, 4), (3, 0)] * 2, (9, 0)]}),
    ),
    fires(
        "PoolShutdownLostTasks",
        12,
        POOL.with_(lasts=10.5, counters={reason("shutdown"): [(10, 0), (0.25, 28), (0.25, 0)]}),
    ),
    near_miss("PoolShutdownLostTasks", "drained", 12, POOL.with_(lasts=10.5)),
    near_miss(
        "PoolShutdownLostTasks",
        "long-ago",
        30,
        POOL.with_(counters={reason("shutdown"): [(10, 0), (0.25, 28), (60, 0)]}),
    ),
    fires("PoolMetricsAbsent", 97, POOL.with_(lasts=90), step=ONE),
    near_miss(
        "PoolMetricsAbsent",
        "one-of-two-instances",
        97,
        POOL.with_(lasts=90),
        POOL.with_(instance="b:1"),
        step=ONE,
    ),
    near_miss("PoolMetricsAbsent", "too-young", 58, POOL.with_(lasts=50), step=ONE),
)
