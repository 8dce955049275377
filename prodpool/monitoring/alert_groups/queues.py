"""Alerts about what waits, and about what is offered."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import (
    ATTEMPTS_PANEL,
    DWELL_PANEL,
    EXACTLY,
    FULL_PANEL,
    OLDEST_PANEL,
    QUEUE_PANEL,
    WHERE,
)
from prodpool.monitoring.model import Alert

QUEUES = (
    Alert(
        name="PoolStalled",
        severity="critical",
        expr="""
            max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > 0
            and
            sum by (<process>) (increase(workerpool_completed_total[<stall>])) == 0
        """,
        hold_for=120.0,
        per_process=True,
        summary="Pool {{ $labels.pool }} has tasks waiting and finishes none",
        description=EXACTLY + ": {{ $value | humanize }} tasks wait, none has finished in <stall_spoken>.",
        panel=OLDEST_PANEL,
        held_back_by=("PoolWorkersHung",),
    ),
    # From the clock that runs while nothing finishes: the dwell histogram learns of a wait when it is over.
    Alert(
        name="PoolOldestQueued",
        severity="warning",
        expr="max by (<process>) (min_over_time(workerpool_oldest_queued_seconds[1m])) > <oldest_queued>",
        hold_for=120.0,
        per_process=True,
        summary="The next task of pool {{ $labels.pool }} has waited for more than <oldest_queued_spoken>",
        description=EXACTLY + ": the oldest queued task has waited for {{ $value | humanizeDuration }}.",
        panel=OLDEST_PANEL,
    ),
    Alert(
        name="PoolOldestQueuedCritical",
        severity="critical",
        expr="""
            max by (<process>) (min_over_time(workerpool_oldest_queued_seconds[1m]))
            > <oldest_queued_critical>
        """,
        hold_for=60.0,
        per_process=True,
        summary="The next task of pool {{ $labels.pool }} has waited <oldest_queued_critical_spoken> or more",
        description=EXACTLY + ": the oldest queued task has waited for {{ $value | humanizeDuration }}.",
        panel=OLDEST_PANEL,
        held_back_by=("PoolStalled", "PoolWorkersHung"),
    ),
    Alert(
        name="PoolQueueSaturated",
        severity="warning",
        expr="""
            max by (<process>) (min_over_time(workerpool_queue_depth[1m]))
            /
            (max by (<process>) (max_over_time(workerpool_queue_capacity[1m])) > 0)
            > <queue_fill>
        """,
        hold_for=300.0,
        per_process=True,
        summary="The queue of pool {{ $labels.pool }} is nearly full",
        description=EXACTLY + ": the queue is {{ $value | humanizePercentage }} full.",
        panel=QUEUE_PANEL,
    ),
    # From a fifth of the capacity on, for a queue that is nearly empty has no trend worth a word; and not
    # above what PoolQueueSaturated speaks of.
    Alert(
        name="PoolQueueFillingUp",
        severity="warning",
        expr="""
            max by (<process>) (predict_linear(workerpool_queue_depth[15m], <fill_horizon>))
            >= (max by (<process>) (max_over_time(workerpool_queue_capacity[1m])) > 0)
            and
            max by (<process>) (min_over_time(workerpool_queue_depth[1m]))
            > <fill_floor> * max by (<process>) (max_over_time(workerpool_queue_capacity[1m]))
            unless
            max by (<process>) (min_over_time(workerpool_queue_depth[1m]))
            > <queue_fill> * max by (<process>) (max_over_time(workerpool_queue_capacity[1m]))
        """,
        hold_for=600.0,
        per_process=True,
        summary="The queue of pool {{ $labels.pool }} will be full within half an hour",
        description=EXACTLY + ": at the pace of the last 15 minutes {{ $value | humanize }} tasks wait soon.",
        panel=FULL_PANEL,
    ),
    Alert(
        name="PoolDwellHigh",
        severity="warning",
        expr="""
            histogram_quantile(
              0.95, sum by (<service>, le) (rate(workerpool_queue_dwell_seconds_bucket[5m]))
            ) > <dwell>
        """,
        hold_for=600.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} wait for more than <dwell_spoken>",
        description=WHERE + ": one task in twenty waits for {{ $value | humanizeDuration }} or more.",
        panel=DWELL_PANEL,
        held_back_by=("PoolOldestQueued",),
    ),
    # Work that is refused and offered again at once looks like traffic; what is admitted is what finishes.
    # As much offered as yesterday, and less admitted, comes of slow tasks.
    Alert(
        name="PoolRetryStorm",
        severity="warning",
        expr="""
            sum by (<service>) (rate(workerpool_offered_total[5m]))
            /
            (sum by (<service>) (rate(workerpool_submitted_total[5m])) > 0)
            > <retries>
            and
            sum by (<service>) (rate(workerpool_dropped_total{reason=~"full|breaker_open"}[5m])) > <refusals>
            and
            sum by (<service>) (rate(workerpool_offered_total[5m]))
            > <offered_growth> * sum by (<service>) (rate(workerpool_offered_total[1h] offset 1d))
        """,
        hold_for=120.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} is offered far more than it admits",
        description=WHERE + ": {{ $value | humanize }} tasks are offered for each one that is admitted.",
        panel=ATTEMPTS_PANEL,
        names_cause=True,
    ),
)
