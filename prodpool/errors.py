"""Every public exception, each with the fields a handler needs to answer its own caller."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor
from pickle import PicklingError
from typing import Any, Self, cast

from prodpool.task.outcomes import Reason
from prodpool.text import said, shown, type_name

__all__ = [
    "BreakerOpenError",
    "PoolBrokenError",
    "PoolClosedError",
    "PoolForkedError",
    "PoolFullError",
    "RejectedError",
    "RemoteTaskError",
    "TaskExpiredError",
    "TaskTimeoutError",
    "UnpicklableError",
    "WorkerLostError",
]


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _later(retry_after: float | None) -> str:
    return "Retry later" if retry_after is None else f"Retry in about {_seconds(retry_after)}"


class _PoolError(RuntimeError):
    pool: str
    """Name of the pool."""
    retry_after: float | None
    """Seconds after which a retry is likely to succeed; None where that cannot be known."""

    def __init__(self, message: str, *, pool: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.pool = pool
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which keyword-only arguments refuse; worker processes send these home.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class RejectedError(_PoolError):
    """Raised when a pool refuses to admit a task; no trace of the task is left in it."""

    reason: Reason
    """Word the drop is counted under."""

    def __init__(self, message: str, *, pool: str, reason: Reason, retry_after: float | None = None) -> None:
        super().__init__(message, pool=pool, retry_after=retry_after)
        self.reason = reason


class PoolFullError(RejectedError):
    """Raised when no slot is free: all workers are busy and all waiting places are taken."""

    def __init__(
        self,
        *,
        pool: str,
        queued: int,
        queue_capacity: int,
        retry_after: float | None = None,
        detail: str | None = None,
    ) -> None:
        places = (
            f"{queued} of {queue_capacity} waiting places are taken"
            if queue_capacity
            else "every worker is busy and nothing may wait (queue_capacity=0)"
        )
        way_out = detail or (
            f"{_later(retry_after)}, wait for a slot with options(wait=seconds), or give the pool more "
            "workers or queue_capacity"
        )
        super().__init__(
            f"pool {pool!r} is full: {places}. {way_out}",
            pool=pool,
            reason=Reason.FULL,
            retry_after=retry_after,
        )
        self.queued = queued
        self.queue_capacity = queue_capacity
        self.detail = detail


class PoolClosedError(RejectedError):
    """Raised when a pool takes no new tasks, because it is stopping or stopped."""

    def __init__(
        self,
        *,
        pool: str,
        detail: str = "stop() or shutdown() has begun; a pool does not open again, so build a new one",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(
            f"pool {pool!r} is closed: {detail}",
            pool=pool,
            reason=Reason.CLOSED,
            retry_after=retry_after,
        )
        self.detail = detail


class PoolForkedError(_PoolError):
    """Raised when a pool is used in a forked child, was used before the fork and cannot start anew.

    It is not a `RejectedError`: to try again, or to tell a client to come back later, does not help.
    """

    def __init__(self, *, pool: str) -> None:
        super().__init__(
            f"pool {pool!r} was used before this process was forked, and its threads stayed in the parent: "
            "build the pool after the fork, or give it a factory, from which it starts anew in each process, "
            "such as InstrumentedPool(ThreadPoolExecutor, max_workers=8, ...)",
            pool=pool,
            retry_after=None,
        )


class PoolBrokenError(PoolClosedError, BrokenExecutor):
    """Raised when a pool takes no new tasks because the executor it wraps broke."""

    def __init__(self, *, pool: str, cause: BaseException) -> None:
        super().__init__(
            pool=pool,
            detail=f"the wrapped executor broke: {shown(cause)}; build a new executor and a new pool around "
            "it",
        )


class BreakerOpenError(RejectedError):
    """Raised when the breaker holds tasks back from a dependency that has been failing."""

    def __init__(self, *, pool: str, retry_after: float | None = None, why: str | None = None) -> None:
        super().__init__(
            f"pool {pool!r} refuses tasks while its breaker is not closed{': ' + why if why else ''}. "
            f"{_later(retry_after)}; it lets a probe through by itself and closes when that succeeds",
            pool=pool,
            reason=Reason.BREAKER_OPEN,
            retry_after=retry_after,
        )
        self.why = why


class TaskExpiredError(_PoolError):
    """Raised when a task's deadline passed while it was still waiting, so that it never ran."""

    def __init__(
        self, *, pool: str, task: str, deadline: float, dwell: float, retry_after: float | None = None
    ) -> None:
        super().__init__(
            f"task {task!r} of pool {pool!r} expired unrun: it had waited {_seconds(dwell)} "
            f"and its deadline was {_seconds(deadline)}. Allow a longer one, or give the pool more workers",
            pool=pool,
            retry_after=retry_after,
        )
        self.reason: Reason = Reason.EXPIRED
        self.task = task
        self.deadline = deadline
        self.dwell = dwell


class TaskTimeoutError(_PoolError, TimeoutError):
    """Raised when a task was killed with its worker process, because it ran longer than it may."""

    def __new__(cls, *args: Any, **_: Any) -> Self:
        """Make it as an OSError, which TimeoutError is and RuntimeError cannot make."""
        return TimeoutError.__new__(cls, *args)

    def __init__(self, *, pool: str, task: str, timeout: float, retry_after: float | None = None) -> None:
        super().__init__(
            f"task {task!r} of pool {pool!r} was killed after {_seconds(timeout)}, its run-time limit. "
            "It has run in part: submit it again only if that does no harm, with a longer timeout",
            pool=pool,
            retry_after=retry_after,
        )
        self.task = task
        self.timeout = timeout


class WorkerLostError(_PoolError, BrokenExecutor):
    """Raised when the worker a task was given to went away before it had answered."""

    def __init__(
        self,
        *,
        pool: str,
        task: str,
        detail: str | None = None,
        retry_after: float | None = None,
        began: bool = True,
    ) -> None:
        what_now = (
            "It may have run in part: submit it again only if running it twice does no harm"
            if began
            else "It never began, so it can be submitted again"
        )
        super().__init__(
            f"task {task!r} of pool {pool!r} lost its worker{': ' + detail if detail else ''}. {what_now}",
            pool=pool,
            retry_after=retry_after,
        )
        # One that began is counted as it ends, if ever; one that did not, as dropped{reason="shutdown"}.
        self.reason: Reason | None = None
        self.task = task
        self.detail = detail
        self.began = began


class UnpicklableError(_PoolError, PicklingError):
    """Raised when a call, its result or its exception cannot travel between the pool and a worker process."""

    def __init__(
        self, *, pool: str, task: str, what: str, error: BaseException, retry_after: float | None = None
    ) -> None:
        super().__init__(
            f"task {task!r} of pool {pool!r}: {what}: {type_name(error)}: {said(error)}. Pass functions of "
            "an importable module and plain data (over loky also lambdas and functions of __main__ or a "
            "notebook), or use a pool of threads",
            pool=pool,
            retry_after=retry_after,
        )
        self.task = task
        self.what = what


class RemoteTaskError(_PoolError):
    """Raised when a task raised an exception that does not pickle; its stack is the cause, as text."""

    def __init__(
        self,
        *,
        pool: str,
        task: str,
        error: str,
        retry_after: float | None = None,
        kinds: tuple[str, ...] = (),
    ) -> None:
        super().__init__(
            f"task {task!r} of pool {pool!r} raised {error} in its worker process, which does not pickle; "
            "its stack is given below the cause",
            pool=pool,
            retry_after=retry_after,
        )
        self.task = task
        self.error = error
        # The full names of its class and of that one's bases, by which it is judged (see `stands_for`).
        self.kinds = kinds


def stands_for(error: BaseException, classes: Iterable[type]) -> bool:
    """Tell whether an exception stands in for one of ``classes`` that could not leave its worker process."""
    if not issubclass(type(error), RemoteTaskError):  # `isinstance` may call the exception's own code
        return False
    kinds = cast("RemoteTaskError", error).kinds
    return any(f"{each.__module__}.{each.__qualname__}" in kinds for each in classes)
