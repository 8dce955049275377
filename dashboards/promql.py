"""The arithmetic of the dashboards, each expression written once.

Every selector takes the variables of the dashboard, so that a panel shows what was chosen and nothing else.
Parts of a sum are joined by ``or``: with ``+``, a series that is missing would make the whole sum vanish.
Their label sets differ (one has ``result``, another ``reason``), so ``or`` loses nothing.
"""

from __future__ import annotations

from prodpool.task.outcomes import AFTER_ADMISSION, Reason

PROCESS = 'job=~"$job", instance=~"$instance"'
POOL = f'{PROCESS}, pool=~"$pool"'
# An alert that is about all instances of a pool has no label of that name.
ALERTS = (
    'ALERTS{alertname=~"Pool.+", alertstate="firing", job=~"$job", instance=~"$instance|", pool=~"$pool"}'
)

# Of the size that suits resolution and scrape interval, by which Grafana sets it.
RATE_INTERVAL = "$__rate_interval"
RANGE = "$__range"

OPEN = 'state="open"'
REFUSED = 'reason=~"' + "|".join(reason for reason in Reason if reason not in AFTER_ADMISSION) + '"'
# A task that its own caller cancelled, or offered to a pool that was told to stop, is no failure of the pool.
LOST = 'reason!~"closed|cancelled"'


def series(metric: str, *matchers: str) -> str:
    """Return the selector of one of our metrics, named without its prefix."""
    return f"workerpool_{metric}{{{', '.join((POOL, *matchers))}}}"


def rate(metric: str, *matchers: str) -> str:
    """Return the increase per second of a counter, seen over the interval that Grafana finds right."""
    return f"rate({series(metric, *matchers)}[{RATE_INTERVAL}])"


def increase(window: str, metric: str, *matchers: str) -> str:
    """Return how much a counter has grown over ``window``."""
    return f"increase({series(metric, *matchers)}[{window}])"


def _growth(window: str, metric: str, *matchers: str) -> str:
    if window == RATE_INTERVAL:
        return rate(metric, *matchers)
    return increase(window, metric, *matchers)


def summed(*parts: str, by: str = "") -> str:
    """Add up all series of all parts, by the labels named."""
    return f"sum{f' by ({by})' if by else ''} ({' or '.join(parts)})"


def ratio(numerator: str, denominator: str) -> str:
    """Divide, with no answer where there is nothing to divide by."""
    return f"{numerator} / ({denominator} > 0)"


def offered(window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the tasks that were offered to a pool, admitted or not."""
    return summed(_growth(window, "offered_total"), by=by)


def refused(window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the tasks that submit refused."""
    return summed(_growth(window, "dropped_total", REFUSED), by=by)


def finished(window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the tasks that ran to an end, good or bad."""
    return summed(_growth(window, "completed_total"), by=by)


def dropped(window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the tasks that never ran, except those that their caller cancelled."""
    return summed(_growth(window, "dropped_total", 'reason!="cancelled"'), by=by)


def error_ratio(window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the share of the offered tasks that failed or were lost; the alerts reckon in the same way.

    Of tasks lost in a stop many may have been offered before the window, so the share is held to 1.
    """
    bad = summed(
        _growth(window, "completed_total", 'result=~"error|panic|timeout"'),
        _growth(window, "dropped_total", LOST),
        by=by,
    )
    return f"clamp_max({ratio(bad, offered(window, by))}, 1)"


def burn_rate(window: str, by: str) -> str:
    """Return how many times faster than the objective allows the error budget is spent."""
    return f"{error_ratio(window, by)} / (1 - $slo)"


def quantile(q: float, histogram: str, window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return a quantile in seconds; no answer, rather than NaN, where nothing was observed."""
    buckets = summed(_growth(window, f"{histogram}_bucket"), by=f"{by}, le" if by else "le")
    return f"histogram_quantile({q}, {buckets}) >= 0"


def mean(histogram: str, window: str = RATE_INTERVAL, by: str = "") -> str:
    """Return the mean in seconds of what a histogram observed."""
    return ratio(
        summed(_growth(window, f"{histogram}_sum"), by=by),
        summed(_growth(window, f"{histogram}_count"), by=by),
    )


def fill(by: str) -> str:
    """Return the fullest queue's depth as a share of its capacity. A pool without a queue has none."""
    share = ratio(series("queue_depth"), series("queue_capacity"))
    return f"max{f' by ({by})' if by else ''} ({share})"


def utilisation(by: str) -> str:
    """Return the share of the workers' time that was spent in tasks.

    Of all workers that were there in that time: those of a process that has ended since were busy as well.
    """
    there = f"max_over_time({series('workers')}[{RATE_INTERVAL}])"
    return ratio(summed(rate("busy_seconds_total"), by=by), summed(there, by=by))


def until_full(by: str) -> str:
    """Return the seconds, an hour at most, until a queue is full at the pace of the last ten minutes."""
    room = f"({series('queue_capacity')} - {series('queue_depth')})"
    pace = f"(deriv({series('queue_depth')}[10m]) > 0)"
    return f"min by ({by}) ({room} / {pace}) < 3600"


def started_within(bound: str, by: str) -> str:
    """Return the share of the started tasks whose wait was no longer than a bucket's bound."""
    return ratio(
        summed(rate("queue_dwell_seconds_bucket", f'le="{bound}"'), by=by),
        summed(rate("queue_dwell_seconds_count"), by=by),
    )


def workers_needed(by: str) -> str:
    """Return the workers that the offered load keeps busy. Source: Little's law, L = arrival rate x time."""
    return f"{offered(by=by)} * {mean('task_duration_seconds', by=by)}"


def mean_of_task(by: str) -> str:
    """Return the mean run time in seconds of the tasks that are counted by name."""
    return ratio(summed(rate("tasks_run_seconds_total"), by=by), summed(rate("tasks_finished_total"), by=by))


def settings() -> str:
    """Return how many instances were told each setting, with the labels ``knob`` and ``setting``.

    In multiprocess mode what is there no more stays, as 0. A choice is 1, and a number may well be 0.
    """
    choices, numbers = series("config", 'knob=~".+:.+"'), series("config", 'knob!~".+:.+"')
    there = f"on (job, instance, pool) ({series('info')} > 0)"
    return f'count_values by (knob) ("setting", {choices} > 0 or {numbers} and {there})'


def breaker(by: str) -> str:
    """Return 0 for a closed breaker, 1 for a half-open one, 2 for an open one; the worst of a group."""
    half_open = series("breaker_state", 'state="half_open"')
    # Where several processes are one instance the gauge counts their breakers.
    return f"max by ({by}) (2 * clamp_max({series('breaker_state', OPEN)}, 1) or clamp_max({half_open}, 1))"


def peak(expr: str) -> str:
    """Return the highest value that an expression had over the dashboard's range."""
    return f"max_over_time(({expr})[{RANGE}:$__interval])"


def average(expr: str) -> str:
    """Return the mean value that an expression had over the dashboard's range."""
    return f"avg_over_time(({expr})[{RANGE}:$__interval])"
