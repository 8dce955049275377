"""Why a pool takes no more tasks, and what closes it when its backend breaks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from prodpool.errors import PoolBrokenError, PoolClosedError
from prodpool.execution.settlement import Settlement
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import Reason, State
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors

EXITING = (
    "the interpreter is exiting, since its main thread has ended, and no new task can be run: have the main "
    "thread wait for the threads that submit, for instance by joining them"
)


class Closing:
    """Knows why one pool is closed.

    Args:
        pool: The pool's name, for errors.
        dispatcher: Drains.
        settlement: Settles what the backend will not run.
        log: The pool's log.
        telemetry_errors: Reports faults of the pool's own.
        stop_soon: Has the pool stopped by another thread.
    """

    def __init__(
        self,
        pool: str,
        *,
        dispatcher: Dispatcher,
        settlement: Settlement,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        stop_soon: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._settlement = settlement
        self._log = log
        self._telemetry_errors = telemetry_errors
        self._stop_soon = stop_soon
        # What broke the backend, once something has.
        self.broken: BaseException | None = None
        # Whether the interpreter's exit closed the pool.
        self.exiting = False

    def refusal(self, otherwise: str | None = None) -> PoolClosedError:
        """Return the error that says why no task is taken; ``otherwise`` if nothing is known but that."""
        if self.broken is not None:
            return PoolBrokenError(pool=self._pool, cause=self.broken)
        # The exit closes all pools first. A pool that was built later finds that its backend is closed.
        exiting = self.exiting or not threading.main_thread().is_alive()
        detail = EXITING if exiting else otherwise
        if detail is None:
            return PoolClosedError(pool=self._pool)
        return PoolClosedError(pool=self._pool, detail=detail)

    def worker_lost(self, task: Task | None, error: BaseException | None) -> None:
        """Settle the task of a lost worker; close the pool if the backend will run nothing any more."""
        if self._dispatcher.state is State.STOPPED:
            return
        if error is None or isinstance(error, BrokenExecutor):
            self.backend_broke(error)
        else:
            # A loop of ours broke down. Another is started when a task needs one.
            self._telemetry_errors.report("internal", error)
        if task is not None:
            self._settlement.dropped(task, lost=error or self.broken)

    def backend_broke(self, error: BaseException | None) -> None:
        """Close the pool, since its backend will run nothing any more, and settle what is queued."""
        if self._dispatcher.state is State.STOPPED or self.broken is not None:
            return
        self.broken = error or BrokenExecutor(
            "the calls that the pool had submitted to it were cancelled from outside"
        )
        self._log.error("pool.backend_broken", error=self._log.describe(self.broken))
        self._dispatcher.start_draining()
        # Nothing else may ever stop the pool, and a look at it shall show one that is stopped. Not from here:
        # this may be a thread that holds the backend's own lock.
        self._stop_soon()
        for queued in self._dispatcher.drop_queued(Reason.SHUTDOWN):
            self._settlement.dropped(queued, lost=self.broken)
