"""Wrap a service's executors: bounded queue, metrics, traces, breaker, watchdog, a stop that ends."""

from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.config.around import Around
from prodpool.config.settings import OnHangExit, Overload, TaskContext
from prodpool.errors import (
    BreakerOpenError,
    PoolBrokenError,
    PoolClosedError,
    PoolForkedError,
    PoolFullError,
    RejectedError,
    RemoteTaskError,
    TaskExpiredError,
    TaskTimeoutError,
    UnpicklableError,
    WorkerLostError,
)
from prodpool.execution.current_task import CurrentTask, current_task
from prodpool.factories import HandoffOptions, PoolOptions, dask, processes, threads
from prodpool.pool import InstrumentedPool
from prodpool.shutdown.report import StopReport
from prodpool.stats import PoolStats
from prodpool.submission.options import PoolLike, PoolView
from prodpool.task.future import PoolFuture
from prodpool.task.outcomes import Reason, Result
from prodpool.version import __version__ as __version__
from prodpool.workers.base import SupportsSubmit
from prodpool.workers.handoff.rebuildable_backend import BackendFactory

__all__ = [
    "Around",
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
    "PoolForkedError",
    "PoolFullError",
    "PoolFuture",
    "PoolLike",
    "PoolOptions",
    "PoolStats",
    "PoolView",
    "Reason",
    "RejectedError",
    "RemoteTaskError",
    "Result",
    "StopReport",
    "SupportsSubmit",
    "TaskContext",
    "TaskExpiredError",
    "TaskTimeoutError",
    "UnpicklableError",
    "WorkerLostError",
    "current_task",
    "dask",
    "processes",
    "threads",
]
