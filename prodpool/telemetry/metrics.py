"""What is exported of a pool: every metric's name, labels, meaning and value, whichever way it goes out.

Several pools may have one name. How their values become one is said here too.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prodpool.task.outcomes import count_refused
from prodpool.telemetry.counters import HistogramSnapshot
from prodpool.telemetry.snapshot import BREAKER_STATES, PoolSnapshot

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One exported counter or gauge.

    Attributes:
        name: What it is called in Prometheus.
        help: One sentence.
        labels: Its labels beside ``pool``.
        samples: Returns its values in a snapshot, by the values of those labels.
        merge: Makes one value of those of two pools of one name.
        of_open: Whether a stopped pool has no say while another one of that name is there.
        seconds: Whether its values are seconds, and not counts.
    """

    name: str
    help: str
    labels: Labels
    samples: Callable[[PoolSnapshot], Iterable[tuple[Labels, float]]]
    merge: Callable[[float, float], float] = operator.add
    of_open: bool = False
    seconds: bool = False


@dataclass(frozen=True, slots=True)
class HistogramSpec:
    """One exported histogram of seconds."""

    name: str
    help: str
    read: Callable[[PoolSnapshot], HistogramSnapshot]


def _plain(get: Callable[[PoolSnapshot], float]) -> Callable[[PoolSnapshot], Iterable[tuple[Labels, float]]]:
    return lambda reading: [((), get(reading))]


def _breaker(reading: PoolSnapshot) -> Iterable[tuple[Labels, float]]:
    # Every state is there also without a breaker: a series that appears later is invisible to increase().
    return [((state,), float(state == (reading.breaker or "closed"))) for state in BREAKER_STATES]


COUNTERS = (
    MetricSpec(
        "workerpool_offered_total",
        "Tasks offered to submit, admitted or refused.",
        (),
        _plain(lambda r: r.submitted + count_refused(r.dropped)),
    ),
    MetricSpec("workerpool_submitted_total", "Tasks admitted.", (), _plain(lambda r: r.submitted)),
    MetricSpec(
        "workerpool_completed_total",
        "Tasks finished, by result.",
        ("result",),
        lambda r: [((result.value,), count) for result, count in r.completed.items()],
    ),
    MetricSpec(
        "workerpool_dropped_total",
        "Tasks that never ran: refused by submit or dropped after admission.",
        ("reason",),
        lambda r: [((reason.value,), count) for reason, count in r.dropped.items()],
    ),
    MetricSpec(
        "workerpool_busy_seconds_total",
        "Worker seconds spent in tasks, running ones included.",
        (),
        _plain(lambda r: r.busy_seconds),
        seconds=True,
    ),
    MetricSpec(
        "workerpool_slow_tasks_total",
        "Finished tasks that ran longer than slow_after.",
        (),
        _plain(lambda r: r.slow),
    ),
    MetricSpec(
        "workerpool_abandoned_total",
        "Tasks that still ran when a stop gave them up.",
        (),
        _plain(lambda r: r.abandoned),
    ),
    MetricSpec(
        "workerpool_workers_started_total",
        "Workers started: threads, or worker processes.",
        (),
        _plain(lambda r: r.workers_started),
    ),
    MetricSpec(
        "workerpool_workers_lost_total",
        "Workers that ended and were not ended by the pool, by cause.",
        ("cause",),
        lambda r: [((cause.value,), count) for cause, count in r.workers_lost.items()],
    ),
    MetricSpec(
        "workerpool_backend_rebuilds_total",
        "Worker processes that died and were replaced, and times a backend broke and was built anew.",
        (),
        _plain(lambda r: r.backend_rebuilds),
    ),
    MetricSpec(
        "workerpool_telemetry_errors_total",
        "Errors raised while observing, and what a hung sink had no room for, by sink; no task was touched.",
        ("sink",),
        lambda r: [((sink,), count) for sink, count in r.telemetry_errors.items()],
    ),
    # Without `task_metrics` these two have no series.
    MetricSpec(
        "workerpool_tasks_finished_total",
        "Tasks finished, by name, for the names in task_metrics, and by result.",
        ("task", "result"),
        lambda r: [((task, result.value), count) for (task, result), count in r.finished_by_task.items()],
    ),
    MetricSpec(
        "workerpool_tasks_run_seconds_total",
        "Seconds that finished tasks ran, by name, for the names in task_metrics.",
        ("task",),
        lambda r: [((task,), seconds) for task, seconds in r.run_seconds_by_task.items()],
        seconds=True,
    ),
)

GAUGES = (
    MetricSpec("workerpool_queue_depth", "Tasks waiting now.", (), _plain(lambda r: r.queued)),
    MetricSpec(
        "workerpool_queue_capacity",
        "Tasks that may wait.",
        (),
        _plain(lambda r: r.queue_capacity),
        of_open=True,
    ),
    MetricSpec(
        "workerpool_workers", "Tasks that may run at once.", (), _plain(lambda r: r.workers), of_open=True
    ),
    MetricSpec("workerpool_workers_busy", "Tasks running now.", (), _plain(lambda r: r.running)),
    MetricSpec(
        "workerpool_oldest_queued_seconds",
        "How long the first task of the queue has waited.",
        (),
        _plain(lambda r: r.oldest_queued),
        merge=max,
    ),
    MetricSpec(
        "workerpool_longest_running_seconds",
        "How long the oldest running task, or done-callback, has run.",
        (),
        _plain(lambda r: r.longest_running),
        merge=max,
    ),
    MetricSpec(
        "workerpool_hung_tasks",
        "Tasks, and done-callbacks of tasks, that have run longer than hung_after.",
        (),
        _plain(lambda r: r.hung),
    ),
    MetricSpec(
        "workerpool_breaker_state",
        "1 for the state that the breaker is in; in multiprocess mode, how many are.",
        ("state",),
        _breaker,
        merge=max,
        of_open=True,
    ),
    MetricSpec(
        "workerpool_stopped",
        "1 once draining has begun.",
        (),
        _plain(lambda r: float(r.state != "open")),
        merge=min,
        of_open=True,
    ),
    MetricSpec(
        "workerpool_info",
        "Which backend and which version of prodpool; always 1.",
        ("backend", "version"),
        lambda r: [((r.backend, r.version), 1.0)],
        merge=max,
        of_open=True,
    ),
    MetricSpec(
        "workerpool_config",
        "What the pool was told: a number as it is, seconds or a count, and 1 for a choice.",
        ("knob",),
        lambda r: [((knob,), number) for knob, number in r.knobs.items()],
        merge=max,
        of_open=True,
    ),
    MetricSpec(
        "workerpool_process_threads",
        "Python threads of the process; in multiprocess mode, of the process that has most.",
        (),
        # The process's number of now, also where the pool's own have stopped changing.
        lambda _: [((), float(threading.active_count()))],
        merge=max,
    ),
)

HISTOGRAMS = (
    HistogramSpec(
        "workerpool_queue_dwell_seconds", "Time from admission to the start of the run.", lambda r: r.dwell
    ),
    HistogramSpec(
        "workerpool_task_duration_seconds", "Time from start to end of the run.", lambda r: r.duration
    ),
    HistogramSpec(
        "workerpool_admission_wait_seconds",
        "Time that a waiting submit was blocked.",
        lambda r: r.admission_wait,
    ),
    HistogramSpec(
        "workerpool_scheduling_delay_seconds",
        "How late the watchdog's thread woke up.",
        lambda r: r.scheduling_delay,
    ),
)
