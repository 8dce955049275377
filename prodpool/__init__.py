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
from prodpool.ready import HandoffOptions, PoolOptions, dask, processes, threads
from prodpool.settings import OnHangExit, Overload
from prodpool.stats import PoolStats
from prodpool.stopping import StopReport
from prodpool.version import __version__ as __version__
from prodpool.views import PoolLike, PoolView
from prodpool.vocabulary import Reason, Result
from prodpool.workers.base import SupportsSubmit
from prodpool.workers.supply import BackendFactory

__all__ = [
    "BackendFactory",
    "BreakerOpenError",
    "BreakerPolicy",
    "CurrentTask",
    "HandoffOptions",
    "InstrumentedPool",
    "OnHangExit",
    "Overload",
    "PoolBrokenError",
    "PoolClosedError",
    "PoolFullError",
    "PoolFuture",
    "PoolLike",
    "PoolOptions",
    "PoolStats",
    "PoolView",
    "RateLimitError",
    "Reason",
    "RejectedError",
    "RemoteTaskError",
    "Result",
    "StopReport",
    "SupportsSubmit",
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
