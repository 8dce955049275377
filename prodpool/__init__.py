"""Wrap a service's executors: bounded queue, metrics, traces, breaker, watchdog, a stop that ends."""

from prodpool.admission.policy import BreakerPolicy
from prodpool.current import CurrentTask, current_task
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
from prodpool.futures import PoolFuture
from prodpool.pool import InstrumentedPool
from prodpool.ready import dask, processes, threads
from prodpool.stats import PoolStats
from prodpool.stopping import StopReport
from prodpool.views import PoolView
from prodpool.vocabulary import Reason, Result

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
