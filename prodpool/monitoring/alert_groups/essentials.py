"""The alerts of the first hour: a queue that grows, a pool that is stopped, panics, drops, slow tasks."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import (
    DURATION_PANEL,
    EXACTLY,
    OPEN_PANEL,
    QUEUE_PANEL,
    REASONS_PANEL,
    RESULTS_PANEL,
    WHERE,
)
from prodpool.monitoring.model import Alert

ESSENTIALS = (
    Alert(
        name="PoolQueueGrowing",
        severity="warning",
        # By share too: a queue with fewer places than that could never fire it. A queue that is nearly full
        # is PoolQueueSaturated's affair.
        expr="""
            max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > <queue_depth>
            or
            (
              max by (<process>) (min_over_time(workerpool_queue_depth[1m]))
              > <grown> * max by (<process>) (max_over_time(workerpool_queue_capacity[1m]))
              unless
              max by (<process>) (min_over_time(workerpool_queue_depth[1m]))
              > <queue_fill> * max by (<process>) (max_over_time(workerpool_queue_capacity[1m]))
            )
        """,
        hold_for=300.0,
        per_process=True,
        summary="The queue of pool {{ $labels.pool }} has grown long",
        description=EXACTLY + ": {{ $value | humanize }} tasks wait.",
        panel=QUEUE_PANEL,
    ),
    # The gauge is 1 in every deployment, from the beginning of the drain to the end of the process, and it
    # stays 1 when a pool was stopped on purpose in a process that goes on. Wrong is only a stopped pool that
    # is offered work for longer than a drain takes. min_over_time: with max_over_time a process that is gone
    # would count on.
    Alert(
        name="PoolStopped",
        severity="critical",
        expr="""
            max by (<process>) (min_over_time(workerpool_stopped[1m])) == 1
            and
            sum by (<process>) (increase(workerpool_dropped_total{reason="closed"}[5m])) > 0
        """,
        hold_for="drain",
        per_process=True,
        summary="Pool {{ $labels.pool }} is stopped and still offered work",
        description=EXACTLY + " is stopped, refuses whatever it is offered, and its process goes on.",
        panel=OPEN_PANEL,
    ),
    Alert(
        name="PoolPanicRate",
        severity="critical",
        expr='sum by (<service>) (rate(workerpool_completed_total{result="panic"}[5m])) > <panic_rate>',
        hold_for=300.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} panic",
        description=WHERE + ": {{ $value | humanize }} tasks per second panic.",
        panel=RESULTS_PANEL,
    ),
    # Each other reason has an alert of its own, save `cancelled`, which is the caller's own wish.
    Alert(
        name="PoolDropping",
        severity="warning",
        expr="""
            sum by (<service>) (
              rate(workerpool_dropped_total{reason!~"cancelled|closed|shutdown"}[5m])
            ) > <drop_rate>
        """,
        hold_for=300.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} drops tasks",
        description=WHERE + ": {{ $value | humanize }} tasks per second are refused or expire.",
        panel=REASONS_PANEL,
    ),
    Alert(
        name="PoolSlowTasks",
        severity="warning",
        expr="""
            histogram_quantile(
              0.99, sum by (<service>, le) (rate(workerpool_task_duration_seconds_bucket[5m]))
            ) > <duration>
        """,
        hold_for=600.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} run for more than <duration_spoken>",
        description=WHERE + ": one task in a hundred runs for {{ $value | humanizeDuration }} or more.",
        panel=DURATION_PANEL,
    ),
)
