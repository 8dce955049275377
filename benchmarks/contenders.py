"""The sides that are compared. Each is an executor factory: ``(workers, capacity) -> Executor``."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client import CollectorRegistry

from benchmarks.obvious import ObviousWrapper
from prodpool import BreakerPolicy, InstrumentedPool

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Contender:
    """One side of a comparison."""

    title: str
    build: Callable[[int, int], Executor]


def _bare(workers: int, capacity: int) -> Executor:  # noqa: ARG001  # its queue has no bound
    return ThreadPoolExecutor(workers)


def wrap(backend: Executor, capacity: int, **options: Any) -> InstrumentedPool:
    """Build a pool with everything on: metrics, a breaker with all its conditions, watchdog, logger."""
    options.setdefault("breaker", BreakerPolicy(failure_rate=0.5, slow_call_rate=0.5, slow_after=1.0))
    options.setdefault("logger", _logger())
    return InstrumentedPool(
        backend,
        name=f"bench_{next(_numbers)}",
        queue_capacity=capacity,
        registry=CollectorRegistry(),
        **options,
    )


def _pool(workers: int, capacity: int, **options: Any) -> Executor:
    return wrap(ThreadPoolExecutor(workers), capacity, **options)


def _untraced_pool(workers: int, capacity: int) -> Executor:
    return _pool(workers, capacity)


def _unsampled_pool(workers: int, capacity: int) -> Executor:
    return _pool(workers, capacity, tracer_provider=TracerProvider(sampler=ALWAYS_OFF))


def _unguarded_pool(workers: int, capacity: int) -> Executor:
    return _pool(workers, capacity, breaker=None)


def _logger() -> Any:
    """Make a logger as a service would configure it, writing JSON lines at INFO to memory."""
    return structlog.wrap_logger(
        structlog.PrintLogger(io.StringIO()),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )


BARE = "bare"
POOL = "pool"
UNGUARDED = "pool-no-breaker"
CONTENDERS = {
    BARE: Contender("ThreadPoolExecutor", _bare),
    POOL: Contender("InstrumentedPool, everything on, no tracer", _untraced_pool),
    "pool-unsampled": Contender("InstrumentedPool, everything on, sampling off", _unsampled_pool),
    UNGUARDED: Contender("InstrumentedPool, no breaker", _unguarded_pool),
    "obvious": Contender("closure + prometheus_client + BoundedSemaphore", ObviousWrapper),
}
