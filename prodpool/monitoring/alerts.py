"""The table of alerts. Rules, runbook and mixin are written from it.

Gauges are read with ``min_over_time`` or ``max_over_time`` over a minute, so that a failed scrape does not
begin the waiting anew. Such a window is satisfied by a single sample: how long something has to hold is said
by ``wait``.
"""

from __future__ import annotations

from prodpool.monitoring.model import Alert, Group, PanelLink
from prodpool.monitoring.slo_alerts import budget_groups

OVERVIEW, ONE_POOL = "prodpool-overview", "prodpool-pool"
_QUEUE = PanelLink(ONE_POOL, 21, "Queue", repeated=True)
_OLDEST = PanelLink(ONE_POOL, 23, "Oldest queued, longest running", repeated=True)
_RESULTS = PanelLink(ONE_POOL, 32, "Finished, by result")
_REASONS = PanelLink(ONE_POOL, 33, "Dropped, by reason")
_BUSY = PanelLink(ONE_POOL, 34, "Utilisation, by instance")
_DWELL = PanelLink(ONE_POOL, 41, "Dwell: time in the queue")
_DURATION = PanelLink(ONE_POOL, 42, "Duration: time of the run")
_HUNG = PanelLink(OVERVIEW, 63, "Hung tasks")
_BREAKER = PanelLink(ONE_POOL, 61, "Breaker")
_OPEN = PanelLink(ONE_POOL, 62, "Open or stopped")
_REBUILDS = PanelLink(ONE_POOL, 63, "Backend rebuilds")
_FULL = PanelLink(OVERVIEW, 33, "Time until full")
_OFFERED = PanelLink(OVERVIEW, 21, "Offered, finished, dropped")

_WHERE = "Pool {{ $labels.pool }} of {{ $labels.job }}"
_WHERE_EXACTLY = "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}"

_ESSENTIALS = (
    Alert(
        name="PoolQueueGrowing",
        severity="warning",
        expr="max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > <queue_depth>",
        hold_for=300.0,
        per_process=True,
        summary="Pool {{ $labels.pool }} has more than <queue_depth> tasks waiting",
        description=_WHERE_EXACTLY + ": {{ $value | humanize }} tasks wait.",
        panel=_QUEUE,
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
        description=_WHERE_EXACTLY + " is stopped, refuses whatever it is offered, and its process goes on.",
        panel=_OPEN,
    ),
    Alert(
        name="PoolPanicRate",
        severity="critical",
        expr='sum by (<service>) (rate(workerpool_completed_total{result="panic"}[5m])) > <panic_rate>',
        hold_for=300.0,
        per_process=False,
        summary="Tasks of pool {{ $labels.pool }} panic",
        description=_WHERE + ": {{ $value | humanize }} tasks per second panic.",
        panel=_RESULTS,
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
        description=_WHERE + ": {{ $value | humanize }} tasks per second are refused or expire.",
        panel=_REASONS,
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
        description=_WHERE + ": one task in a hundred runs for {{ $value | humanizeDuration }} or more.",
        panel=_DURATION,
    ),
)

_QUEUES = (
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
        description=_WHERE_EXACTLY
        + ": {{ $value | humanize }} tasks wait, none has finished in <stall_spoken>.",
        panel=_OLDEST,
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
        description=_WHERE_EXACTLY + ": the queue is {{ $value | humanizePercentage }} full.",
        panel=_QUEUE,
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
        description=_WHERE_EXACTLY
        + ": at the pace of the last 15 minutes {{ $value | humanize }} tasks wait soon.",
        panel=_FULL,
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
        description=_WHERE + ": one task in twenty waits for {{ $value | humanizeDuration }} or more.",
        panel=_DWELL,
    ),
)

_WORKERS = (
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
        description=_WHERE + ": its workers spend {{ $value | humanizePercentage }} of their time in tasks.",
        panel=_BUSY,
    ),
    Alert(
        name="PoolHungTasks",
        severity="warning",
        expr="max by (<process>) (min_over_time(workerpool_hung_tasks[1m])) > 0",
        hold_for=300.0,
        per_process=True,
        summary="Tasks of pool {{ $labels.pool }} hang",
        description=_WHERE_EXACTLY
        + ": {{ $value | humanize }} tasks or done-callbacks have run longer than hung_after.",
        panel=_HUNG,
    ),
)

_DEPENDENCIES = (
    # Not `open == 1`: a breaker that tries the dependency in vain is half-open at times.
    Alert(
        name="PoolBreakerOpen",
        severity="warning",
        # And not `closed == 0`: where several processes are one instance, or pools one name, it counts them.
        # There both sides fall whenever one of them is replaced: the second part holds meanwhile.
        expr="""
            max by (<process>) (max_over_time(workerpool_breaker_state{state="closed"}[1m]))
            < sum by (<process>) (workerpool_breaker_state)
            or
            sum by (<process>) (min_over_time(workerpool_breaker_state{state!="closed"}[1m])) > 0
        """,
        hold_for=300.0,
        per_process=True,
        summary="The breaker of pool {{ $labels.pool }} stays open",
        description=_WHERE_EXACTLY + ": the breaker has let no more than probes through.",
        panel=_BREAKER,
    ),
    # Two changes make one trip and its recovery. Where several processes are one instance, each one that is
    # replaced also makes two of `closed`, but none of the other states.
    Alert(
        name="PoolBreakerFlapping",
        severity="warning",
        expr="""
            max by (<process>) (changes(workerpool_breaker_state{state="closed"}[15m])) >= <flaps>
            and
            sum by (<process>) (changes(workerpool_breaker_state{state!="closed"}[15m])) >= <flaps>
        """,
        hold_for=0.0,
        per_process=True,
        summary="The breaker of pool {{ $labels.pool }} opens again and again",
        description=_WHERE_EXACTLY + ": the breaker has opened or closed {{ $value }} times in 15 minutes.",
        panel=_BREAKER,
    ),
    # >= and not > 2: increase() extrapolates, and two rebuilds may well be 2.03.
    Alert(
        name="PoolBackendRebuilding",
        severity="warning",
        expr="sum by (<process>) (increase(workerpool_backend_rebuilds_total[15m])) >= <rebuilds>",
        hold_for=0.0,
        per_process=True,
        summary="Worker processes of pool {{ $labels.pool }} die again and again",
        description=_WHERE_EXACTLY + ": they were replaced {{ $value | humanize }} times in 15 minutes.",
        panel=_REBUILDS,
    ),
)

_LIFECYCLE = (
    Alert(
        name="PoolShutdownLostTasks",
        severity="warning",
        expr='sum by (<service>) (increase(workerpool_dropped_total{reason="shutdown"}[15m])) > 0',
        hold_for=0.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} lost queued tasks when it stopped",
        description=_WHERE + ": about {{ $value | humanize }} queued tasks were dropped by a stop.",
        panel=_REASONS,
    ),
    # Needs no job by name. A warning: a service that is down pages through `up`, and a pool that a deployment
    # has taken out for good is missing for the best of reasons.
    Alert(
        name="PoolMetricsAbsent",
        severity="warning",
        expr="""
            count by (<service>) (last_over_time(workerpool_submitted_total[5m] offset 1h))
            unless
            count by (<service>) (workerpool_submitted_total)
        """,
        hold_for=300.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} has no metrics any more",
        description=_WHERE + " was scraped in {{ $value }} instances an hour ago, and in none now.",
        panel=_OFFERED,
    ),
)

GROUPS = (
    Group("prodpool", _ESSENTIALS),
    *budget_groups(),
    Group("prodpool-queue", _QUEUES),
    Group("prodpool-workers", _WORKERS),
    Group("prodpool-dependencies", _DEPENDENCIES),
    Group("prodpool-lifecycle", _LIFECYCLE),
)
ALERTS = tuple(rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert))
