"""A scrape as a pool would answer it, made by hand so that a test can put any number off."""

from __future__ import annotations

from typing import Any

from examples.webhook_service.scrape import Snapshot, parse

POOL = "webhook_delivery"
RESULTS = ("ok", "error", "panic", "timeout", "cancelled", "expected")
REASONS = (
    "full",
    "closed",
    "breaker_open",
    "expired",
    "cancelled",
    "shutdown",
)
# The number of a result that is a reason, too, has another name here.
_OF_RESULT = {"cancelled": "cancelled_running"}
BOUNDS = ("0.01", "0.1", "1.0", "+Inf")


def _histogram(name: str, counts: tuple[int, ...], pool: str, *, exemplars: bool) -> list[str]:
    lines = [f"# TYPE {name} histogram"]
    for bound, count in zip(BOUNDS, counts, strict=True):
        exemplar = (
            ' # {trace_id="4bf92f3577b34da6a3ce929d0e0e4736"} 0.05'
            if exemplars and bound == "0.1" and count
            else ""
        )
        lines.append(f'{name}_bucket{{pool="{pool}",le="{bound}"}} {count}{exemplar}')
    return [*lines, f'{name}_count{{pool="{pool}"}} {counts[-1]}', f'{name}_sum{{pool="{pool}"}} 1.5']


def exposition(pool: str = POOL, *, without: str = "", exemplars: bool = True, **numbers: Any) -> str:
    """Return OpenMetrics text in which the law holds unless ``numbers`` say otherwise.

    Args:
        pool: The label of every series.
        without: A metric to leave out.
        exemplars: Whether the histograms carry one each.
        numbers: ``submitted=``, ``ok=``, ``full=``, ``queue_depth=``, ``dwell=`` (cumulative), and so on.
    """
    gauges = {
        "queue_depth": 4,
        "queue_capacity": 32,
        "workers": 8,
        "workers_busy": 6,
        "oldest_queued_seconds": 0.25,
        "longest_running_seconds": 1.5,
        "hung_tasks": 1,
        "stopped": 0,
    }
    lines = ["# TYPE workerpool_submitted counter"]
    lines.append(f'workerpool_submitted_total{{pool="{pool}"}} {numbers.get("submitted", 100)}')
    lines.append("# TYPE workerpool_completed counter")
    lines += [
        f'workerpool_completed_total{{pool="{pool}",result="{result}"}} '
        f"{numbers.get(_OF_RESULT.get(result, result), {'ok': 80, 'error': 5}.get(result, 0))}"
        for result in RESULTS
    ]
    lines.append("# TYPE workerpool_dropped counter")
    lines += [
        f'workerpool_dropped_total{{pool="{pool}",reason="{reason}"}} '
        f"{numbers.get(reason, {'full': 7, 'shutdown': 3, 'cancelled': 2}.get(reason, 0))}"
        for reason in REASONS
    ]
    for name, value in gauges.items():
        lines.append(f"# TYPE workerpool_{name} gauge")
        lines.append(f'workerpool_{name}{{pool="{pool}"}} {numbers.get(name, value)}')
    lines.append("# TYPE workerpool_breaker_state gauge")
    breaker = numbers.get("breaker", "closed")
    lines += [
        f'workerpool_breaker_state{{pool="{pool}",state="{state}"}} {int(state == breaker)}'
        for state in ("closed", "open", "half_open")
    ]
    lines += _histogram(
        "workerpool_queue_dwell_seconds", numbers.get("dwell", (50, 90, 100, 100)), pool, exemplars=exemplars
    )
    lines += _histogram(
        "workerpool_task_duration_seconds",
        numbers.get("duration", (0, 50, 85, 85)),
        pool,
        exemplars=exemplars,
    )
    kept = [line for line in lines if not without or f"workerpool_{without}" not in line]
    return "\n".join([*kept, "# EOF", ""])


def snapshot(at: float = 0.0, **numbers: Any) -> Snapshot:
    """Parse such a text."""
    return parse(exposition(**numbers), POOL, at)
