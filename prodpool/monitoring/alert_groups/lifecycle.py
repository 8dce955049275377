"""Alerts about pools that end."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import OFFERED_PANEL, REASONS_PANEL, WHERE
from prodpool.monitoring.model import Alert

LIFECYCLE = (
    Alert(
        name="PoolShutdownLostTasks",
        severity="warning",
        expr='sum by (<service>) (increase(workerpool_dropped_total{reason="shutdown"}[15m])) > 0',
        hold_for=0.0,
        per_process=False,
        summary="Pool {{ $labels.pool }} lost queued tasks when it stopped",
        description=WHERE + ": about {{ $value | humanize }} queued tasks were dropped by a stop.",
        panel=REASONS_PANEL,
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
        description=WHERE + " was scraped in {{ $value }} instances an hour ago, and in none now.",
        panel=OFFERED_PANEL,
    ),
)
