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
    ),
    # It names the cause of what else fires then, which is why it holds that back.
    Alert(
        name="PoolWorkersHung",
        severity="critical",
        expr="""
            max by (<process>) (min_over_time(workerpool_hung_tasks[1m]))
            /
            (max by (<process>) (max_over_time(workerpool_workers[1m])) > 0)
            >= <hung_share>
        """,
        hold_for=60.0,
        per_process=True,
        summary="Half of the workers of pool {{ $labels.pool }} hang",
        description=EXACTLY + ": {{ $value | humanizePercentage }} of its workers hang.",
        panel=HUNG_PANEL,
    ),
    # The mean of this hour yesterday is what is usual: no number would be right for every pool.
    Alert(
        name="PoolSlowdown",
        severity="warning",
        expr="""
            (
              sum by (<service>) (increase(workerpool_task_duration_seconds_sum[5m]))
              /
              (sum by (<service>) (increase(workerpool_task_duration_seconds_count[5m])) >= <slowdown_tasks>)
              > <slowdown_floor>
            )
            /
            (
              sum by (<service>) (rate(workerpool_task_duration_seconds_sum[1h] offset 1d))
              /
              (sum by (<service>) (rate(workerpool_task_duration_seconds_count[1h] offset 1d)) > 0)
            )
            > <slowdown>
        """,
        hold_for=120.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} take more than <slowdown> times as long as yesterday",
        description=WHERE + ": tasks take {{ $value | humanize }} times as long as in this hour yesterday.",
        panel=DURATION_PANEL,
    ),
)
