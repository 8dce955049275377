"""The triage: what the log says, one query that shows every sign, and where each of them leads.

The runbook's tables are written from these, and the replayed incidents are followed by them, step by step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import dedent, indent

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.model import render
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage.log_summary import Line
from prodpool.monitoring.triage.stacks import Wait, WaitsFor

# Headings of the runbook that are no alert's.
NOT_THE_POOL = "It is not the pool"
WAITING_STEP = "Step 2: where do the tasks wait?"
CYCLE = "Pools that wait for each other"
LEAK = "A resource that is never given back"
TOO_SMALL = "A resource smaller than the pool"
SILENT = "A dependency that does not answer"
DROPPED = '"Tasks are dropped"'


@dataclass(frozen=True, slots=True)
class LogSign:
    """Lines of the log that tell the cause by themselves.

    Attributes:
        event: Of which event they are.
        waits_for: What the task in them waits for; None for anything.
        leads_to: The heading of the runbook to go to.
    """

    event: str
    waits_for: WaitsFor | None
    leads_to: str

    def fits(self, line: Line) -> bool:
        """Tell whether it is one of those lines."""
        return line.event == self.event and self.waits_for in {None, line.waits_for}


@dataclass(frozen=True, slots=True)
class Sign:
    """What a pool shows when something is wrong with it.

    Attributes:
        name: In the label ``sign`` of the query's answer; numbers put them in order.
        expr: Has one answer for each pool that shows it, by job and pool.
        leads_to: The heading of the runbook to go to.
    """

    name: str
    expr: str
    leads_to: str


def _firing(name: str) -> str:
    """Return the condition of an alert, by job and pool."""
    (alert,) = (each for each in ALERTS if each.name == name)
    return f"max by (<service>) (\n{indent(dedent(alert.expr).strip(), '  ')}\n)"


LOG_SIGNS = (
    LogSign("task.still_running", WaitsFor.RESULT, CYCLE),
    LogSign("task.still_running", WaitsFor.RESOURCE, WAITING_STEP),
    LogSign("task.still_running", WaitsFor.NETWORK, SILENT),
    LogSign("task.still_running", None, "PoolHungTasks"),
    LogSign("pool.worker_lost", None, "PoolWorkersDying"),
    LogSign("task.panic", None, "PoolPanicRate"),
)

SIGNS = (
    Sign("refuses everything, being stopped", _firing("PoolStopped"), "PoolStopped"),
    Sign(
        "has workers that hang, half of them or more",
        """
        max by (<service>) (
          max by (<process>) (workerpool_hung_tasks)
          / (max by (<process>) (workerpool_workers) > 0) >= <hung_share>
        )
        """,
        "PoolWorkersHung",
    ),
    Sign(
        "has tasks waiting and finishes none",
        """
        max by (<service>) (
          max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > 0
          and sum by (<process>) (increase(workerpool_completed_total[<stall>])) == 0
        )
        """,
        "PoolStalled",
    ),
    # Not "at least one": increase() of one is a little more or less.
    Sign(
        "has lost workers in 30 minutes",
        "sum by (<service>) (increase(workerpool_workers_lost_total[30m])) > 0.5",
        "PoolWorkersDying",
    ),
    Sign(
        "has tasks that panic",
        'sum by (<service>) (increase(workerpool_completed_total{result="panic"}[15m])) > 0.5',
        "PoolPanicRate",
    ),
    Sign(
        "is offered far more than it admits, and more than yesterday",
        """
        sum by (<service>) (rate(workerpool_offered_total[5m]))
        / (sum by (<service>) (rate(workerpool_submitted_total[5m])) > 0) > <retries>
        and
        sum by (<service>) (rate(workerpool_offered_total[5m]))
        > <offered_growth> * sum by (<service>) (rate(workerpool_offered_total[1h] offset 1d))
        """,
        "PoolRetryStorm",
    ),
    Sign(
        "has a process that is starved",
        """
        max by (<service>) (
          rate(workerpool_scheduling_delay_seconds_sum[2m])
          / (rate(workerpool_scheduling_delay_seconds_count[2m]) > 0)
        ) > <scheduling_delay>
        """,
        "PoolStarved",
    ),
    Sign("takes longer for a task than yesterday", _firing("PoolSlowdown"), WAITING_STEP),
    Sign(
        "has a breaker that is not closed",
        'sum by (<service>) (workerpool_breaker_state{state!="closed"}) > 0',
        "PoolBreakerOpen",
    ),
    Sign(
        "has tasks that fail",
        """
        sum by (<service>) (rate(workerpool_completed_total{result=~"error|panic|timeout"}[5m]))
        / (sum by (<service>) (rate(workerpool_completed_total[5m])) > 0) > <budget>
        and sum by (<service>) (increase(workerpool_completed_total[5m])) >= <slowdown_tasks>
        """,
        "PoolErrorBudgetBurn1h",
    ),
    Sign(
        "is in a process whose file descriptors run out",
        """
        max by (<service>) (
          max by (<process>) (workerpool_workers)
          and on (<whole_process>)
          max by (<whole_process>) (process_open_fds / (process_max_fds > 0)) > <descriptors>
        )
        """,
        "PoolDescriptorsHigh",
    ),
    Sign(
        "has more work than workers",
        """
        max by (<service>) (
          max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > 0
          and
          max by (<process>) (workerpool_workers_busy) >= max by (<process>) (workerpool_workers)
        )
        """,
        "PoolQueueGrowing",
    ),
    Sign(
        "has tasks waiting beside idle workers",
        """
        max by (<service>) (
          max by (<process>) (min_over_time(workerpool_queue_depth[1m])) > 0
          and
          max by (<process>) (max_over_time(workerpool_workers_busy[1m]))
          < max by (<process>) (workerpool_workers)
        )
        """,
        "PoolStalled",
    ),
    Sign(
        "drops tasks",
        'sum by (<service>) (increase(workerpool_dropped_total{reason!="cancelled"}[5m])) > 0.5',
        DROPPED,
    ),
    Sign("has tasks that hang", "max by (<service>) (workerpool_hung_tasks) > 0", "PoolHungTasks"),
    Sign("starts workers again and again", _firing("PoolChurning"), "PoolChurning"),
)


def signs_query(settings: AlertThresholds) -> str:
    """Return the query whose answer is every sign of every pool, with the sign's name as a label."""
    parts = (
        f'label_replace(\n{indent(render(sign.expr, settings), "  ")},\n  "sign", "{name}", "", "")'
        for name, sign in _numbered()
    )
    return "\nor\n".join(parts)


def triage_values(settings: AlertThresholds) -> dict[str, str]:
    """Return what the runbook's template has of the triage, by name."""
    return {
        "log_signs": "\n".join(_log_signs_table()),
        "signs_query": signs_query(settings),
        "signs": "\n".join(_signs_table()),
        "not_the_pool": NOT_THE_POOL,
    }


def from_log(lines: Iterable[Line], pools: Iterable[str]) -> str | None:
    """Return where the log leads to that has such lines; None if it tells nothing of these pools."""
    of_pools = [line for line in lines if line.pool in set(pools)]
    return next((sign.leads_to for sign in LOG_SIGNS if any(map(sign.fits, of_pools))), None)


def from_signs(answers: Iterable[Mapping[str, str]]) -> str:
    """Return where the labels lead to that the query's answer has for one pool."""
    shown = {labels["sign"] for labels in answers}
    return next((sign.leads_to for name, sign in _numbered() if name in shown), NOT_THE_POOL)


def from_waits(waits: Mapping[Wait, int]) -> str:
    """Return where it leads to that so many tasks wait for each thing."""
    running, at_a_resource = Counter[str](), Counter[str]()
    for wait, count in waits.items():
        running[wait.threads] += count
        at_a_resource[wait.threads] += count * (wait.what is WaitsFor.RESOURCE)
    # One task that waits for a moment is no sign.
    if any(at_a_resource[threads] == running[threads] > 1 for threads in running):
        return LEAK
    return TOO_SMALL if any(2 * at_a_resource[one] > running[one] > 1 for one in running) else "PoolSlowdown"


def _numbered() -> Iterator[tuple[str, Sign]]:
    return ((f"{number:02} {sign.name}", sign) for number, sign in enumerate(SIGNS, 1))


def _log_signs_table() -> Iterator[str]:
    yield "| a line with | go to |"
    yield "|---|---|"
    for sign in LOG_SIGNS:
        waits = "" if sign.waits_for is None else f" that waits for {sign.waits_for}"
        yield f"| `{sign.event}`{waits} | {linked(sign.leads_to)} |"


def _signs_table() -> Iterator[str]:
    yield "| sign: the pool | go to |"
    yield "|---|---|"
    for name, sign in _numbered():
        yield f"| {name} | {linked(sign.leads_to)} |"


def linked(heading: str) -> str:
    """Return a heading of the runbook as a link to it."""
    anchor = "".join(one for one in heading.lower().replace(" ", "-") if one.isalnum() or one in "-_")
    return f"[{heading}](#{anchor})"
