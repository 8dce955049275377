"""Alerts about the workers and the tasks that they run."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import (
    BUSY_PANEL,
    DURATION_PANEL,
    EXACTLY,
    HUNG_PANEL,
    WHERE,
)
from prodpool.monitoring.model import Alert

WORKERS = (
    Alert(
        name="PoolWorkersSaturated",
        severity="info",
        expr="""
            sum by (<service>) (rate(workerpool_busy_seconds_total[5m]))
            /
            (sum by (<service>) (max_over_time(workerpool_workers[5m])) > 0)
            > <utilisation>
        """,
        hold_for=1800.0,
        per_process=False,
        summary="The workers of pool {{ $labels.pool }} are always busy",
        description=WHERE + ": its workers spend {{ $value | humanizePercentage }} of their time in tasks.",
        panel=BUSY_PANEL,
    ),
    Alert(
        name="PoolHungTasks",
        severity="warning",
        expr="max by (<process>) (min_over_time(workerpool_hung_tasks[1m])) > 0",
        hold_for=60.0,
        per_process=True,
        summary="Tasks of pool {{ $labels.pool }} hang",
        description=EXACTLY
        + ": {{ $value | humanize }} tasks or done-callbacks have run longer than hung_after.",
        panel=HUNG_PANEL,
        names_cause=True,
    ),
    # Only with tasks behind them: a pool of one worker may have nothing to do but a long task.
    Alert(
        name="PoolWorkersHung",
        severity="critical",
        expr="""
            max by (<process>) (min_over_time(workerpool_hung_tasks[1m]))
            /
            (max by (<process>) (max_over_time(workerpool_workers[1m])) > 0)
            >= <hung_share>
            and
            max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > 0
        """,
        hold_for=60.0,
        per_process=True,
        summary="Half of the workers of pool {{ $labels.pool }} hang",
        description=EXACTLY + ": {{ $value | humanizePercentage }} of its workers hang.",
        panel=HUNG_PANEL,
    ),
    # The mean of this hour yesterday is what is usual: no number would be right for every pool. Enough tasks
    # have to be there of yesterday, and not of now: a pool that has become slow finishes few.
    Alert(
        name="PoolSlowdown",
        severity="warning",
        expr="""
            (
              sum by (<service>) (increase(workerpool_task_duration_seconds_sum[5m]))
              /
              (sum by (<service>) (increase(workerpool_task_duration_seconds_count[5m])) > 0)
              > <slowdown_floor>
            )
            /
            (
              sum by (<service>) (increase(workerpool_task_duration_seconds_sum[1h] offset 1d))
              /
              (
                sum by (<service>) (increase(workerpool_task_duration_seconds_count[1h] offset 1d))
                >= <slowdown_tasks>
              )
            )
            > <slowdown>
        """,
        hold_for=120.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} take more than <slowdown> times as long as yesterday",
        description=WHERE + ": tasks take {{ $value | humanize }} times as long as in this hour yesterday.",
        panel=DURATION_PANEL,
        names_cause=True,
    ),
)
