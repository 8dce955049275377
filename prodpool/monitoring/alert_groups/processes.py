"""Alerts about a process as a whole, whatever pools it has."""

from __future__ import annotations

from prodpool.monitoring.alert_groups.common import DELAY_PANEL, DESCRIPTORS_PANEL, PROCESS
from prodpool.monitoring.model import Alert

PROCESSES = (
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
        hold_for=180.0,
        per_process=True,
        per_pool=False,
        summary="Threads of {{ $labels.instance }} wait for the interpreter or for a CPU",
        description=PROCESS + ": a thread that is due runs {{ $value | humanizeDuration }} late on average.",
        panel=DELAY_PANEL,
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
        description=PROCESS + ": {{ $value | humanizePercentage }} of its file descriptors are open.",
        panel=DESCRIPTORS_PANEL,
    ),
)
