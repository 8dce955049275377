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
_LOST = PanelLink(ONE_POOL, 64, "Workers started and lost")
_FULL = PanelLink(OVERVIEW, 33, "Time until full")
_DELAY = PanelLink(OVERVIEW, 71, "Scheduling delay")
_DESCRIPTORS = PanelLink(OVERVIEW, 73, "File descriptors")
_ATTEMPTS = PanelLink(ONE_POOL, 35, "Offered and admitted")
_OFFERED = PanelLink(OVERVIEW, 21, "Offered, finished, dropped")

_WHERE = "Pool {{ $labels.pool }} of {{ $labels.job }}"
_PROCESS = "Process {{ $labels.instance }} of {{ $labels.job }}"
_WHERE_EXACTLY = "Pool {{ $labels.pool }} in {{ $labels.instance }} of {{ $labels.job }}"

_ESSENTIALS = (
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
        held_back_by=("PoolRetryStorm",),
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
        held_back_by=("PoolWorkersHung",),
    ),
    # From the clock that runs while nothing finishes: the dwell histogram learns of a wait when it is over.
    Alert(
        name="PoolOldestQueued",
        severity="warning",
        expr="max by (<process>) (min_over_time(workerpool_oldest_queued_seconds[1m])) > <dwell>",
        hold_for=120.0,
        per_process=True,
        summary="The next task of pool {{ $labels.pool }} has waited for more than <dwell_spoken>",
        description=_WHERE_EXACTLY
        + ": the oldest queued task has waited for {{ $value | humanizeDuration }}.",
        panel=_OLDEST,
    ),
    Alert(
        name="PoolOldestQueuedCritical",
        severity="critical",
        expr="max by (<process>) (min_over_time(workerpool_oldest_queued_seconds[1m])) > <dwell_critical>",
        hold_for=60.0,
        per_process=True,
        summary="The next task of pool {{ $labels.pool }} has waited for more than <dwell_critical_spoken>",
        description=_WHERE_EXACTLY
        + ": the oldest queued task has waited for {{ $value | humanizeDuration }}.",
        panel=_OLDEST,
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
        held_back_by=("PoolQueueGrowing",),
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
            unless
            sum by (<service>) (rate(workerpool_offered_total[5m]))
            < <offered_growth> * sum by (<service>) (rate(workerpool_offered_total[1h] offset 1d))
        """,
        hold_for=120.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} is offered far more than it admits",
        description=_WHERE + ": {{ $value | humanize }} tasks are offered for each one that is admitted.",
        panel=_ATTEMPTS,
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
        hold_for=60.0,
        per_process=True,
        summary="Tasks of pool {{ $labels.pool }} hang",
        description=_WHERE_EXACTLY
        + ": {{ $value | humanize }} tasks or done-callbacks have run longer than hung_after.",
        panel=_HUNG,
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
        description=_WHERE_EXACTLY + ": {{ $value | humanizePercentage }} of its workers hang.",
        panel=_HUNG,
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
        description=_WHERE + ": tasks take {{ $value | humanize }} times as long as in this hour yesterday.",
        panel=_DURATION,
    ),
)

_PROCESSES = (
    # Of a process, and not of a pool: every pool of it is late then, and would tell the same.
    Alert(
        name="PoolStarved",
        severity="warning",
        expr="""
            max by (<whole_process>) (
              rate(workerpool_scheduling_delay_seconds_sum[2m])
              /
              (rate(workerpool_scheduling_delay_seconds_count[2m]) > 0)
            ) > <scheduling_delay>
        """,
        hold_for=120.0,
        per_process=True,
        per_pool=False,
        summary="Threads of {{ $labels.instance }} wait for the interpreter or for a CPU",
        description=_PROCESS + ": a thread that is due runs {{ $value | humanizeDuration }} late on average.",
        panel=_DELAY,
    ),
    Alert(
        name="PoolDescriptorsHigh",
        severity="warning",
        expr="""
            max by (<whole_process>) (max_over_time(process_open_fds[1m]))
            /
            (max by (<whole_process>) (max_over_time(process_max_fds[1m])) > 0)
            > <descriptors>
            and
            max by (<whole_process>) (workerpool_info)
        """,
        hold_for=120.0,
        per_process=True,
        per_pool=False,
        summary="{{ $labels.instance }} runs out of file descriptors",
        description=_PROCESS + ": {{ $value | humanizePercentage }} of its file descriptors are open.",
        panel=_DESCRIPTORS,
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
    # Workers that live for one task, or pools that are built for one request: no harm, and no gain either.
    Alert(
        name="PoolChurning",
        severity="info",
        expr="""
            sum by (<service>) (increase(workerpool_workers_started_total[5m]))
            /
            (sum by (<service>) (max_over_time(workerpool_workers[5m])) > 0)
            > <churn>
        """,
        hold_for=120.0,
        per_process=False,
        summary="Workers of pool {{ $labels.pool }} are started again and again",
        description=_WHERE + ": each worker was started {{ $value | humanize }} times in 5 minutes.",
        panel=_LOST,
    ),
    # One every two hours is twelve lost tasks a day, and no other alert would ever see it.
    Alert(
        name="PoolWorkersDying",
        severity="warning",
        expr="sum by (<service>) (increase(workerpool_workers_lost_total[6h])) >= <losses>",
        hold_for=0.0,
        per_process=False,
        summary="Workers of pool {{ $labels.pool }} die now and then",
        description=_WHERE + ": {{ $value | humanize }} workers were lost in 6 hours, each with its task.",
        panel=_LOST,
        held_back_by=("PoolBackendRebuilding",),
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
    Group("prodpool-processes", _PROCESSES),
    Group("prodpool-dependencies", _DEPENDENCIES),
    Group("prodpool-lifecycle", _LIFECYCLE),
)
ALERTS = tuple(rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert))
