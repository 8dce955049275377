"""The table of alerts. Rules, runbook and mixin are written from it.

Gauges are read with ``min_over_time`` or ``max_over_time`` over a minute, so that a failed scrape does not
begin the waiting anew. Such a window is satisfied by a single sample: how long something has to hold is said
by ``wait``.
"""

from __future__ import annotations

from prodpool.monitoring.alert_groups.dependencies import DEPENDENCIES
from prodpool.monitoring.alert_groups.essentials import ESSENTIALS
from prodpool.monitoring.alert_groups.lifecycle import LIFECYCLE
from prodpool.monitoring.alert_groups.processes import PROCESSES
from prodpool.monitoring.alert_groups.queues import QUEUES
from prodpool.monitoring.alert_groups.workers import WORKERS
from prodpool.monitoring.model import Alert, Group
from prodpool.monitoring.slo_alerts import budget_groups

GROUPS = (
    Group("prodpool", ESSENTIALS),
    *budget_groups(),
    Group("prodpool-queue", QUEUES),
    Group("prodpool-workers", WORKERS),
    Group("prodpool-processes", PROCESSES),
    Group("prodpool-dependencies", DEPENDENCIES),
    Group("prodpool-lifecycle", LIFECYCLE),
)
ALERTS = tuple(rule for group in GROUPS for rule in group.rules if isinstance(rule, Alert))
