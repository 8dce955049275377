"""Alerts about what tasks depend on: breakers, worker processes."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import (
    BREAKER_PANEL,
    EXACTLY,
    LOST_PANEL,
    REBUILDS_PANEL,
    WHERE,
)
from prodpool.monitoring.model import Alert

DEPENDENCIES = (
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
        description=EXACTLY + ": the breaker has let no more than probes through.",
        panel=BREAKER_PANEL,
        names_cause=True,
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
        description=EXACTLY + ": the breaker has opened or closed {{ $value }} times in 15 minutes.",
        panel=BREAKER_PANEL,
        names_cause=True,
    ),
    # >= and not > 2: increase() extrapolates, and two rebuilds may well be 2.03.
    Alert(
        name="PoolBackendRebuilding",
        severity="warning",
        expr="sum by (<process>) (increase(workerpool_backend_rebuilds_total[15m])) >= <rebuilds>",
        hold_for=0.0,
        per_process=True,
        summary="Worker processes of pool {{ $labels.pool }} die again and again",
        description=EXACTLY + ": they were replaced {{ $value | humanize }} times in 15 minutes.",
        panel=REBUILDS_PANEL,
        names_cause=True,
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
        description=WHERE + ": each worker was started {{ $value | humanize }} times in 5 minutes.",
        panel=LOST_PANEL,
    ),
    # One every two hours is twelve lost tasks a day, and no other alert would ever see it.
    Alert(
        name="PoolWorkersDying",
        severity="warning",
        expr="sum by (<service>) (increase(workerpool_workers_lost_total[6h])) >= <losses>",
        hold_for=0.0,
        per_process=False,
        summary="Workers of pool {{ $labels.pool }} die now and then",
        description=WHERE + ": {{ $value | humanize }} workers were lost in 6 hours, each with its task.",
        panel=LOST_PANEL,
        held_back_by=("PoolBackendRebuilding",),
        names_cause=True,
    ),
)
