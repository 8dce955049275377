"""Worker Pool / One pool: a single pool in depth, and each of its instances."""

from __future__ import annotations

from dashboards import promql, shared
from dashboards.frame import Board, Row
from dashboards.panels import (
    BLUE,
    GREEN,
    NEUTRAL,
    NONE_EXPECTED,
    RED,
    YELLOW,
    Panel,
    Query,
    Text,
    columns,
    lines,
    stat,
)

# The label that was written into "Compare by".
COMPARED = "$compare"
NO_TASK_METRICS = "the pool has no task_metrics"


def _now() -> list[Panel]:
    return [
        shared.success(11),
        shared.throughput(12),
        shared.fullest(13),
        shared.dwell_p95(14),
        stat(
            Text(
                15,
                "Hung tasks",
                "Tasks and done-callbacks that have run longer than hung_after, in all instances. Each keeps "
                "a worker: the log event task.still_running has the stack it hangs in.",
            ),
            Query(promql.summed(promql.series("hung_tasks")), now=True),
            "short",
            NONE_EXPECTED,
        ),
        stat(
            Text(
                16,
                "Backend",
                "Which executor and which version of prodpool run. Two versions for longer than a deployment "
                "takes mean that it stopped half-way.",
            ),
            Query(
                # In multiprocess mode what is there no more stays, as 0.
                f"count by (backend, version) ({promql.series('info')} > 0)",
                "{{backend}} {{version}}",
                now=True,
            ),
            "short",
            NEUTRAL,
        ),
    ]


def _instance() -> list[Panel]:
    third = (8, 8)
    return [
        lines(
            Text(
                21,
                "Queue",
                "Tasks waiting in this instance, and how many may. At the bound further tasks are refused: "
                "compare the instances, for one alone that is full points to its load balancing or to a hung "
                "worker.",
            ),
            [
                Query(promql.summed(promql.series("queue_depth")), "depth"),
                Query(promql.summed(promql.series("queue_capacity")), "capacity"),
            ],
            "short",
            size=third,
            colours={"depth": "blue", "capacity": RED},
            dashed="capacity",
        ),
        lines(
            Text(
                22,
                "Workers",
                "Tasks running in this instance, and how many may at once. All of them busy while the queue "
                "is empty is a pool that fits; with a queue that grows, it is too small or its tasks hang.",
            ),
            [
                Query(promql.summed(promql.series("workers_busy")), "busy"),
                Query(promql.summed(promql.series("workers")), "workers"),
            ],
            "short",
            size=third,
            colours={"busy": GREEN, "workers": RED},
            dashed="workers",
        ),
        lines(
            Text(
                23,
                "Oldest queued, longest running",
                "How long the first waiting task has waited and the longest running one has run, so far. A "
                "straight rise means that it does not move: read its stack in task.still_running.",
            ),
            [
                Query(f"max ({promql.series('oldest_queued_seconds')})", "oldest queued"),
                Query(f"max ({promql.series('longest_running_seconds')})", "longest running"),
            ],
            "s",
            size=third,
            colours={"oldest queued": "blue", "longest running": YELLOW},
        ),
    ]


def _traffic() -> list[Panel]:
    return [
        lines(
            Text(
                31,
                "Offered, admitted, finished",
                "Tasks per second on their way through all instances. Offered above admitted is what is "
                "refused by submit; admitted above finished is what the queue takes up or loses.",
            ),
            [
                Query(promql.offered(), "offered"),
                Query(promql.summed(promql.rate("submitted_total")), "admitted"),
                Query(promql.finished(), "finished"),
            ],
            "ops",
            colours={"offered": "blue", "admitted": YELLOW, "finished": GREEN},
        ),
        lines(
            Text(
                35,
                "Offered and admitted",
                "Tasks per second that came to submit, and what it did with them. Where far more is offered "
                "than admitted, what is refused is offered again at once: have callers wait before they try "
                "again, or wait in submit.",
            ),
            [
                Query(promql.offered(), "offered"),
                Query(promql.summed(promql.rate("submitted_total")), "admitted"),
                Query(promql.refused(), "refused"),
            ],
            "ops",
            colours={"offered": BLUE, "admitted": GREEN, "refused": RED},
        ),
        shared.by_result(32),
        shared.by_reason(33),
        lines(
            Text(
                34,
                "Utilisation, by instance",
                "Share of the workers' time spent in tasks. If the instances differ much, the load is not "
                "spread evenly; if all are near 100 %, add workers.",
            ),
            [Query(promql.utilisation("instance"), "{{instance}}")],
            "percentunit",
            size=(24, 6),
            top=1,
            limits=[(0.9, YELLOW)],
        ),
    ]


def _latency() -> list[Panel]:
    return [
        shared.dwell(41),
        shared.duration(42),
        shared.dwell_spread(43),
        shared.duration_spread(44),
        shared.quantiles(
            45,
            "Admission wait",
            "How long callers that wait for a slot were held up. It is the back-pressure that producers "
            "feel; if they must not wait so long, add workers or let them be refused.",
            shared.ADMISSION,
            "no caller waited",
        ),
        lines(
            Text(
                46,
                "Slow tasks",
                "Tasks per second that ran longer than slow_after. Each is a task.slow in the log, with its "
                "dwell and its duration: a slow dependency shows there first.",
            ),
            [Query(promql.summed(promql.rate("slow_tasks_total"), by="instance"), "{{instance}}")],
            "ops",
            top=1,
        ),
    ]


def _failures() -> list[Panel]:
    return [
        shared.failure_ratio(51),
        shared.burn(52),
    ]


def _lifecycle() -> list[Panel]:
    return [
        shared.breaker(61, "instance"),
        shared.lifecycle(62, "instance"),
        shared.rebuilds(63, "instance"),
        lines(
            Text(
                64,
                "Workers started and lost",
                "Workers per minute that were started, and that ended though nobody ended them, by cause. "
                "Many starts are a pool that is built again and again; lost by signal is mostly want of "
                "memory: read pool.worker_lost in the log.",
            ),
            [
                Query(f"60 * {promql.summed(promql.rate('workers_started_total'))}", "started"),
                Query(
                    f"60 * {promql.summed(promql.rate('workers_lost_total'), by='cause')}", "lost: {{cause}}"
                ),
            ],
            "short",
            size=(12, 6),
            top=1,
        ),
        shared.events(
            67,
            "Abandoned tasks",
            "Tasks that still ran when a stop gave them up. They outlast the drain deadline: give the stop "
            "more time or the tasks a limit, and read their stacks in task.abandoned.",
            "abandoned_total",
            "instance",
        ),
        shared.telemetry_errors(66),
        lines(
            Text(
                65,
                "Breakers, by state",
                "How many breakers are in each state: each process has its own, also where several processes "
                "are one instance. If some stay open while others are closed, look at what keeps those from "
                "their dependency.",
            ),
            [Query(promql.summed(promql.series("breaker_state"), by="state"), "{{state}}")],
            "short",
            size=(24, 6),
            stacked=True,
            top=1,
            colours={"closed": GREEN, "half_open": YELLOW, "open": RED},
        ),
    ]


def _tasks() -> list[Panel]:
    third = (8, 8)
    taken = promql.summed(promql.rate("tasks_run_seconds_total"), by="task")
    ended = promql.summed(promql.rate("tasks_finished_total"), by="task, result")
    return [
        lines(
            Text(
                71,
                "Finished, by task and result",
                "Tasks per second that ran to an end, by the names in task_metrics; all others are other. "
                "Look here for which kind of task it is that fails, then for its name in the log.",
            ),
            [Query(f"{ended} > 0", "{{task}} {{result}}")],
            "ops",
            size=third,
            stacked=True,
            empty=NO_TASK_METRICS,
        ),
        lines(
            Text(
                72,
                "Mean duration, by task",
                "Mean time of a run, by name. Tasks that take a hundred times as long as others are better "
                "off in a pool of their own.",
            ),
            [Query(promql.mean_of_task("task"), "{{task}}")],
            "s",
            size=third,
            empty=NO_TASK_METRICS,
        ),
        lines(
            Text(
                73,
                "Workers taken, by task",
                "Workers that the finished tasks of each name have kept busy. Begin with the largest where "
                "the pool is too small.",
            ),
            [Query(f"{taken} > 0", "{{task}}")],
            "short",
            size=third,
            stacked=True,
            empty=NO_TASK_METRICS,
        ),
    ]


def _compared() -> list[Panel]:
    legend = f"{{{{{COMPARED}}}}}"
    return [
        lines(
            Text(
                81,
                f"Failure ratio, by {COMPARED}",
                "Share of the offered tasks that failed or were lost. A version that fails more than the "
                "others under the same load is to be rolled back: write the label "
                "of your targets that tells them apart, such as version, into Compare by.",
            ),
            [Query(promql.error_ratio(by=COMPARED), legend)],
            "percentunit",
        ),
        lines(
            Text(
                82,
                f"Offered, by {COMPARED}",
                "Tasks per second that came to submit. A ratio of few tasks says little: compare the others "
                "once there are hundreds.",
            ),
            [Query(promql.offered(by=COMPARED), legend)],
            "ops",
        ),
        lines(
            Text(
                83,
                f"Mean duration, by {COMPARED}",
                "Mean time of a run. A version whose tasks take longer needs more workers: look for what it "
                "has changed before it gets all of the load.",
            ),
            [Query(promql.mean(shared.DURATION, by=COMPARED), legend)],
            "s",
        ),
        lines(
            Text(
                84,
                f"p99 duration, by {COMPARED}",
                "Of a hundred tasks one ran longer than this. If it differs while the means are alike, a few "
                "calls hang there: follow a point of Duration to its trace.",
            ),
            [Query(promql.quantile(0.99, shared.DURATION, by=COMPARED), legend)],
            "s",
        ),
    ]


def _settings() -> list[Panel]:
    return [
        columns(
            Text(
                91,
                "What the pool was told",
                "Each setting by its name: seconds, numbers and choices, and in how many instances. Two rows "
                "of one knob are two opinions, which outside of a deployment is a mistake; what is None is "
                "not there.",
            ),
            Query(promql.settings(), now=True),
            {"knob": "knob", "setting": "setting", "Value": "instances"},
            empty="no pool",
        )
    ]


BOARD = Board(
    file="pool",
    title="Worker Pool / One pool",
    description="One worker pool in depth: where its tasks wait, how they end, and each of its instances.",
    since="now-1h",
    one_pool=True,
    rows=[
        Row(10, "Now", _now()),
        Row(20, "Instance $instance", _instance(), repeat="instance"),
        Row(30, "Traffic", _traffic()),
        Row(40, "Latency", _latency()),
        Row(50, "Failures", _failures()),
        Row(60, "Breaker and lifecycle", _lifecycle()),
        Row(70, "By task", _tasks()),
        Row(80, "Compare", _compared()),
        Row(90, "Settings", _settings()),
    ],
)
