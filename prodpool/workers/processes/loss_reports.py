"""Counts the worker processes of one pool that were started and lost, and logs each loss."""

from __future__ import annotations

from typing import Any

from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import LossCause, State
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.workers.processes.remote_worker import RemoteWorker, exit_fields


class LossReports:
    """Used by the thread of each worker, for that one."""

    def __init__(self, dispatcher: Dispatcher, log: PoolLog) -> None:
        self._dispatcher = dispatcher
        self._log = log

    def started(self) -> None:
        """Count a process that was started."""
        self._dispatcher.count_worker_started()

    def not_ready(self, process: Any, error: BaseException) -> None:
        """Report that a process could not be started, or has not come up; None: there is none."""
        how: dict[str, object] = {"error": self._log.describe(error)}
        if process is not None:
            how["pid"] = process.pid
            # One whose initializer has failed is ended by the pool: how it ended says nothing.
            if isinstance(error.__cause__, EOFError | OSError):
                how |= exit_fields(process.exitcode)
        self._dispatcher.count_worker_lost(LossCause.START)
        self._log.worker_lost(LossCause.START, None, **how)

    def ended_by_pool(self, worker: RemoteWorker) -> bool:
        """Tell whether it is the pool that has ended a worker's process, or is about to."""
        # One that is not ready was given back, or reported as one that has not come up.
        stopped = self._dispatcher.state is State.STOPPED
        return stopped or not worker.ready or worker.distrusted or worker.timed_out > 0

    def lost(self, worker: RemoteWorker, code: int | None, begun: Task | None) -> LossCause:
        """Count a process that was lost with the task that it had begun, if any; return why it was."""
        if begun is None and not worker.answered:
            cause = LossCause.START
        else:
            cause = LossCause.SIGNAL if code is not None and code < 0 else LossCause.EXIT
        self._dispatcher.count_worker_lost(cause)
        return cause

    def log_lost(self, worker: RemoteWorker, code: int | None, begun: Task | None, cause: LossCause) -> None:
        """Log that one was lost."""
        self._log.worker_lost(cause, begun, pid=worker.process.pid, **exit_fields(code))
