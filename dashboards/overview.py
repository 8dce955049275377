"""Worker Pool / Overview: every pool at a glance, for the wall and for the first minute of an incident."""

from __future__ import annotations

from dashboards import promql, shared
from dashboards.frame import Board, Row
from dashboards.panels import GREEN, NONE_EXPECTED, RED, YELLOW, Panel, Query, Text, bars, lines, stat
from prodpool.monitoring.thresholds import AlertThresholds

LIMITS = AlertThresholds()
# prometheus_client has no metrics of processes in multiprocess mode, and OTLP has others.
NO_PROCESS = "no process metrics"


def _health() -> list[Panel]:
    return [
        shared.success(11),
        shared.throughput(12),
        shared.fullest(13),
        shared.dwell_p95(14),
        stat(
            Text(
                15,
                "Dropped",
                "Tasks that never ran in the range shown, except those that their caller cancelled. Dropped, "
                "by reason says whether to slow the producer down or to mend a dependency.",
            ),
            Query(promql.dropped(promql.RANGE), now=True),
            "short",
            NONE_EXPECTED,
        ),
        stat(
            Text(
                16,
                "Alerts firing",
                "Alerts of the pools chosen that fire now. Each has a page in the runbook: critical first.",
            ),
            Query(f"count({promql.ALERTS}) or vector(0)", now=True),
            "short",
            NONE_EXPECTED,
            empty="0",
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        lines(
            Text(
                21,
                "Offered, finished, dropped",
                "Tasks per second on their way in and out. Offered above finished for long means that the "
                "queue grows or that tasks are refused: see Saturation.",
            ),
            [
                Query(promql.offered(), "offered"),
                Query(promql.finished(), "finished"),
                Query(promql.dropped(), "dropped"),
            ],
            "ops",
            colours={"offered": "blue", "finished": GREEN, "dropped": RED},
        ),
        shared.by_result(22),
    ]


def _saturation() -> list[Panel]:
    return [
        lines(
            Text(
                31,
                "Queue depth against capacity",
                "Share of each queue's capacity that is taken, in the instance where it is fullest. Above "
                "the line for long, refusals are near: add workers or slow the producer down.",
            ),
            [Query(promql.fill("pool"), "{{pool}}")],
            "percentunit",
            top=1,
            limits=[(0.8, RED)],
        ),
        lines(
            Text(
                32,
                "Utilisation",
                "Share of the workers' time spent in tasks. Near 100 % every further task waits: add workers "
                "if the dependency can take it.",
            ),
            [Query(promql.utilisation("pool"), "{{pool}}")],
            "percentunit",
            top=1,
            limits=[(0.9, YELLOW)],
        ),
        lines(
            Text(
                33,
                "Time until full",
                "When the first queue of a pool will be full at the pace of the last ten minutes, if within "
                "the hour. It is the time there is to act: slow the producer down or add workers.",
            ),
            [Query(promql.until_full("pool"), "{{pool}}")],
            "s",
        ),
        lines(
            Text(
                34,
                "Oldest queued",
                "How long the first task of the queue has waited so far. It rises in a straight line when no "
                "worker takes anything any more: look at Hung tasks.",
            ),
            [Query(f"max by (pool) ({promql.series('oldest_queued_seconds')})", "{{pool}}")],
            "s",
        ),
    ]


def _latency() -> list[Panel]:
    return [
        shared.dwell(41),
        shared.duration(42),
        shared.dwell_spread(43),
        shared.duration_spread(44),
        lines(
            Text(
                45,
                "Started within 30 s",
                "Share of the started tasks that waited 30 seconds at most, by pool. What falls below is "
                "late to its users: add workers, or give the tasks a deadline so that they are dropped "
                "instead.",
            ),
            [Query(promql.started_within("30.0", "pool"), "{{pool}}")],
            "percentunit",
            size=(12, 6),
            top=1,
        ),
        lines(
            Text(
                46,
                "Duration by pool",
                "Mean time of a task's run, by pool. Where it rises, so do the workers that the pool needs: "
                "look at that pool's Duration for whether all its tasks are slower or a few hang.",
            ),
            [Query(promql.mean(shared.DURATION, by="pool"), "{{pool}}")],
            "s",
            size=(12, 6),
        ),
    ]


def _failures() -> list[Panel]:
    return [
        shared.failure_ratio(51),
        shared.burn(52),
        shared.by_reason(53),
        bars(
            Text(
                54,
                "Worst pools",
                "The ten pools with the largest share of failed or lost tasks over the range shown. Open the "
                "first one in Worker Pool / One pool.",
            ),
            Query(f"sort_desc(topk(10, {promql.error_ratio(promql.RANGE, 'pool')}))", "{{pool}}", now=True),
            "percentunit",
            [(None, GREEN), (0.005, YELLOW), (0.05, RED)],
            size=(12, 8),
        ),
    ]


def _lifecycle() -> list[Panel]:
    return [
        shared.breaker(61, "pool"),
        shared.lifecycle(62, "pool"),
        shared.hung(63, "pool"),
        shared.rebuilds(64, "pool"),
        lines(
            Text(
                65,
                "Uptime",
                "How long each process has run; it falls to nothing at a restart. Restarts that nobody "
                "deployed are crashes: look at the process's last lines of log and at its memory.",
            ),
            [Query(f"time() - process_start_time_seconds{{{promql.PROCESS}}}", "{{instance}}")],
            "s",
            size=(12, 6),
            empty=NO_PROCESS,
        ),
        lines(
            Text(
                66,
                "Memory",
                "Resident memory of each process. If it grows with the queue's depth, the queue's capacity "
                "or the tasks' arguments are too large; if it grows without it, look at what the tasks keep.",
            ),
            [Query(f"process_resident_memory_bytes{{{promql.PROCESS}}}", "{{instance}}")],
            "bytes",
            size=(12, 6),
            empty=NO_PROCESS,
        ),
    ]


def _process() -> list[Panel]:
    delay = "scheduling_delay_seconds"
    return [
        lines(
            Text(
                71,
                "Scheduling delay",
                "How late a thread of the process runs that is due. With the mean above the line, threads "
                "wait for the interpreter or for a CPU: where CPU is near one core, move the work into "
                "worker processes; where it is not, the machine or the container's limit has too little.",
            ),
            [
                Query(promql.mean(delay, by="instance"), "{{instance}} mean"),
                Query(promql.quantile(0.95, delay, by="instance"), "{{instance}} p95"),
            ],
            "s",
            top=1.25 * LIMITS.scheduling_delay,
            limits=[(LIMITS.scheduling_delay, RED)],
        ),
        lines(
            Text(
                72,
                "CPU",
                "Cores that each process keeps busy, without its worker processes. Threads of one "
                "interpreter share a core: near 1 more threads make nothing faster, and worker processes do.",
            ),
            [Query(f"rate(process_cpu_seconds_total{{{promql.PROCESS}}}[$__rate_interval])", "{{instance}}")],
            "short",
            top=1,
            empty=NO_PROCESS,
        ),
        lines(
            Text(
                73,
                "File descriptors",
                "Open file descriptors of each process, as a share of those that it may have. At 100 % no "
                "connection and no worker process can be opened: find what is not closed, or raise the "
                "limit (ulimit -n).",
            ),
            [
                Query(
                    promql.ratio(
                        f"process_open_fds{{{promql.PROCESS}}}", f"process_max_fds{{{promql.PROCESS}}}"
                    ),
                    "{{instance}}",
                )
            ],
            "percentunit",
            top=1,
            limits=[(LIMITS.descriptors, RED)],
            empty=NO_PROCESS,
        ),
        lines(
            Text(
                74,
                "Threads",
                "Python threads of each process. A number that only rises is a leak: look in Workers started "
                "and lost of each pool for one that is built again and again and never stopped.",
            ),
            [Query(f"max by (instance) ({promql.series('process_threads')})", "{{instance}}")],
            "short",
        ),
    ]


BOARD = Board(
    file="overview",
    title="Worker Pool / Overview",
    description="Every worker pool at a glance. Choose one in Worker Pool / One pool to see it in depth.",
    since="now-1h",
    rows=[
        Row(10, "Health", _health()),
        Row(20, "Traffic", _traffic()),
        Row(30, "Saturation", _saturation()),
        Row(40, "Latency", _latency()),
        Row(50, "Failures", _failures()),
        Row(60, "Breaker and lifecycle", _lifecycle()),
        Row(70, "Process", _process()),
    ],
)
