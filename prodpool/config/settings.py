"""The arguments of a pool, checked once: a bad one fails in the constructor and never later."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from prodpool.config.around import Around, check_around
from prodpool.config.context_variables import check_names
from prodpool.config.log_levels import check_log_levels
from prodpool.config.task_metrics import check_task_metrics

Overload = Literal["reject", "block", "caller_runs"]
OnHangExit = Literal["exit", "wait"]
TaskContext = Literal["copy", "empty"]

WORKER_POOL_SIZE = "WORKER_POOL_SIZE"
DEFAULT_POOL_SIZE = 50
# What a label's value, a thread's name, an URL and a line of log all take as it is.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]{0,99}")


# Seconds. Every threshold of an alert must be one of these below the last.
DEFAULT_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """What a pool is told, checked. Times in seconds; ``math.inf`` stands for never or without limit.

    `InstrumentedPool` says what each field means.

    Raises:
        TypeError, ValueError: A field is wrong; the message names it, its value and what would do.
    """

    name: str
    max_workers: int
    queue_capacity: int
    overload: Overload = "reject"
    slow_after: float = 0.5
    hung_after: float = 60.0
    drain_deadline: float = 25.0
    buckets: Sequence[float] = DEFAULT_BUCKETS
    own_backend: bool = True
    on_hang_exit: OnHangExit = "exit"
    prefetch: int | None = None
    context_vars: Sequence[str] = ()
    context: TaskContext = "copy"
    around: Around | None = None
    log_levels: Mapping[str, str] | None = None
    task_metrics: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        check_count("max_workers", self.max_workers, least=1)
        check_count("queue_capacity", self.queue_capacity, least=0)
        check_choice("overload", self.overload, get_args(Overload))
        self._set("slow_after", check_seconds("slow_after", self.slow_after))
        self._set("hung_after", check_seconds("hung_after", self.hung_after, positive=True))
        self._set("drain_deadline", check_seconds("drain_deadline", self.drain_deadline))
        self._set("buckets", check_buckets(self.buckets))
        check_flag("own_backend", self.own_backend)
        check_choice("on_hang_exit", self.on_hang_exit, get_args(OnHangExit))
        if self.prefetch is not None:
            check_count("prefetch", self.prefetch, least=0)
        self._set("context_vars", check_names(self.context_vars))
        check_choice("context", self.context, get_args(TaskContext))
        check_around(self.around)
        if self.log_levels is not None:
            self._set("log_levels", check_log_levels(self.log_levels))
        if self.task_metrics is not None:
            self._set("task_metrics", check_task_metrics(self.task_metrics))

    def _set(self, field: str, value: object) -> None:
        object.__setattr__(self, field, value)  # the dataclass is frozen for all others


def check_name(name: object) -> str:
    """Return ``name`` if it can be a metric label's value as the project writes them."""
    if not isinstance(name, str):
        raise TypeError(
            f"name={name!r} must be a string: name the pool after its work, such as 'webhook-delivery'"
        )
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            f"name={name!r} cannot be a pool's name: use up to 100 letters, digits and any of _ . : / @ -, "
            "beginning with a letter or digit, such as 'webhook-delivery'"
        )
    return name


def check_count(argument: str, value: object, *, least: int) -> int:
    """Return ``value`` if it is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument}={value!r} must be a whole number of {least} or more")
    if value < least:
        raise ValueError(f"{argument}={value!r} must be {least} or more")
    return value


def check_seconds(argument: str, value: object, *, positive: bool = False) -> float:
    """Return ``value`` if it can be a duration; ``math.inf`` can."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument}={value!r} must be a number of seconds; math.inf means no limit")
    try:
        value = float(value)
    except OverflowError:
        raise ValueError(
            f"{argument}={value!r} must be a number of seconds that fits a float; math.inf means no limit"
        ) from None
    if math.isnan(value) or value < 0 or (positive and value == 0):
        least = "more than 0" if positive else "0 or more"
        raise ValueError(f"{argument}={value!r} must be {least} seconds; math.inf means no limit")
    return float(value)


def check_choice(argument: str, value: object, choices: tuple[str, ...]) -> str:
    """Return ``value`` if it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{argument}={value!r} must be one of {', '.join(map(repr, choices))}")
    return str(value)


def check_flag(argument: str, value: object) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument}={value!r} must be True or False")
    return value


def check_methods(argument: str, value: object, methods: tuple[str, ...], advice: str) -> None:
    """Check that ``value`` has ``methods``, or is None."""
    missing = [name for name in methods if _lacks(value, name)]
    if value is not None and (missing or isinstance(value, type)):
        lacks = f"has no {missing[0]}()" if missing else "is a class"
        raise TypeError(f"{argument}={value!r} {lacks}: pass {advice}")


def _lacks(value: object, method: str) -> bool:
    try:
        return not callable(getattr(value, method, None))
    except RuntimeError:
        # structlog's AsyncBoundLogger has its methods only where an event loop runs.
        return False


def check_collaborators(
    *, registry: object, tracer_provider: object, logger: object, levels: Iterable[str], clock: object
) -> None:
    """Check what the pool is handed to work with; None is its own default each time.

    ``levels``: further levels that the logger must have.

    Raises:
        TypeError: One lacks what the pool calls; the message names it and what would do.
    """
    methods = ("register", "collect")
    check_methods("registry", registry, methods, "a prometheus_client.CollectorRegistry")
    check_methods("tracer_provider", tracer_provider, ("get_tracer",), "an OpenTelemetry TracerProvider")
    check_methods("logger", logger, ("info", "warning", "error", *levels), "a structlog or stdlib logger")
    check_methods("clock", clock, ("monotonic",), "an object with monotonic(), such as ManualClock()")


def check_buckets(buckets: object) -> tuple[float, ...]:
    """Return the upper bounds of the histograms' buckets, in seconds."""
    if not isinstance(buckets, Iterable) or isinstance(buckets, str):
        raise TypeError(
            f"buckets={buckets!r} must be an increasing sequence of positive seconds, "
            "such as (0.01, 0.1, 1, 10)"
        )
    bounds = tuple(check_seconds("buckets", bound, positive=True) for bound in buckets)
    if bounds and math.isinf(bounds[-1]):
        bounds = bounds[:-1]
    rising = all(low < high for low, high in pairwise(bounds))
    if not bounds or not rising or math.isinf(bounds[-1]):
        raise ValueError(
            f"buckets={tuple(buckets)!r} must be an increasing sequence of positive seconds, "
            "such as (0.01, 0.1, 1, 10)"
        )
    return bounds


def check_prefetch_fits(prefetch: object, *, leased: bool) -> None:
    """Check that ``prefetch`` is left out for a backend whose threads take their tasks from the queue."""
    if prefetch is not None and leased:
        raise ValueError(
            f"prefetch={prefetch!r} is for backends that are handed one task at a time; threads take theirs "
            "from the queue, so leave it out"
        )


def resolve_workers(max_workers: object, backend_workers: int | None) -> int:
    """Return how many tasks may run at once: what was asked for, or what the backend has.

    Raises:
        TypeError, ValueError: It must be a count that the backend has workers for.
    """
    if max_workers is None:
        if backend_workers is None:
            raise ValueError(
                "max_workers=None and the backend does not say how many it has: pass max_workers"
            )
        return backend_workers
    workers = check_count("max_workers", max_workers, least=1)
    if backend_workers is not None and workers > backend_workers:
        raise too_many_workers(workers, backend_workers)
    return workers


def too_many_workers(workers: int, most: int | None) -> ValueError:
    """Return the error for more workers than a backend has."""
    return ValueError(
        f"max_workers={workers!r} is more than the {most} workers of the backend: pass at most {most}, or a "
        "larger executor; prodpool.threads(...) grows, and so does a backend given as a factory"
    )


def pool_size_from(environment: Mapping[str, str] = os.environ) -> int:
    """Return the pool size that the environment asks for, 50 if it does not.

    Raises:
        ValueError: The variable is set to something that is no whole number of at least 1.
    """
    text = environment.get(WORKER_POOL_SIZE)
    if text is None:
        return DEFAULT_POOL_SIZE
    size = int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0
    if size < 1:
        raise ValueError(
            f"environment variable {WORKER_POOL_SIZE}={text!r} must be a whole number of 1 or more; "
            f"unset it for the default of {DEFAULT_POOL_SIZE}"
        )
    return size
