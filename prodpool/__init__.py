"""Wrap a service's executors: bounded queue, metrics, traces, breaker, watchdog, a stop that ends."""

from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.errors import (
    BreakerOpenError,
    PoolBrokenError,
    PoolClosedError,
    PoolFullError,
    RateLimitError,
    RejectedError,
    RemoteTaskError,
    TaskExpiredError,
    TaskTimeoutError,
    TenantLimitError,
    UnpicklableError,
    WorkerLostError,
)
from prodpool.execution.current_task import CurrentTask, current_task
from prodpool.factories import dask, processes, threads
from prodpool.pool import InstrumentedPool
from prodpool.shutdown.report import StopReport
from prodpool.stats import PoolStats
from prodpool.submission.options import PoolView
from prodpool.task.future import PoolFuture
from prodpool.task.outcomes import Reason, Result

__all__ = [
    "BreakerOpenError",
    "BreakerPolicy",
    "CurrentTask",
    "InstrumentedPool",
    "PoolBrokenError",
    "PoolClosedError",
    "PoolFullError",
    "PoolFuture",
    "PoolStats",
    "PoolView",
    "RateLimitError",
    "Reason",
    "RejectedError",
    "RemoteTaskError",
    "Result",
    "StopReport",
    "TaskExpiredError",
    "TaskTimeoutError",
    "TenantLimitError",
    "UnpicklableError",
    "WorkerLostError",
    "current_task",
    "dask",
    "processes",
    "threads",
]
