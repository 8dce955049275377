"""Settles the tasks that a lost worker process was sent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from prodpool.errors import TaskTimeoutError, WorkerLostError
from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import LossCause, Result, State
from prodpool.task.task import Task
from prodpool.workers.base import is_repeatable, kill
from prodpool.workers.processes.loss_reports import LossReports
from prodpool.workers.processes.remote_worker import MAX_BYTES_AHEAD, RemoteWorker, how_it_ended
from prodpool.workers.processes.timeouts import TimeoutEnforcer


@dataclass(slots=True)
class WorkerLoss:
    """What was found out about a process that has gone, which can be found out only once.

    Attributes:
        begun: What it had begun and not answered; more than one task only if it was killed for a fault, with
            answers unread.
        timed_out: Whether it was killed for the time limit of the first of them.
        detail: How it ended.
        code: Its exit code, negative for a signal; None if that cannot be known.
        by_pool: Whether the pool itself has ended it.
        cause: Why it was lost, once that is counted.
        logged: Whether it is logged.
        again: Whether that is to be run again, once it is decided.
    """

    begun: list[Task]
    timed_out: bool
    detail: str
    code: int | None = None
    by_pool: bool = True
    cause: LossCause | None = None
    logged: bool = False
    again: bool | None = None


class WorkerLosses:
    """Settles what a lost process had begun, and puts back into the queue what it had not."""

    def __init__(
        self,
        pool: str,
        *,
        dispatcher: Dispatcher,
        runner: Runner,
        limits: TimeoutEnforcer,
        reports: LossReports,
        now: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._runner = runner
        self._limits = limits
        self._reports = reports
        self._now = now

    def settle(self, worker: RemoteWorker) -> None:
        """Settle them; may be called again where it was broken off.

        Raises:
            MemoryError: It was.
        """
        self._limits.end(worker)
        loss = worker.loss
        if loss is None:
            loss = worker.loss = self._examine(worker)
        # Before a thread that waits for one of its tasks goes on.
        self._report(worker, loss)
        worker.disconnect()
        while (task := worker.task) is not None and not self._returns_to_queue(worker, task, loss):
            if task.counted or task.dropped is not None:
                # Its settlement was broken off.
                self._runner.settle_anyway(worker, task, EOFError(loss.detail))
                continue
            error, result = self._error_of(loss, task)
            started = self._now() if worker.started is None else worker.started
            self._runner.settle(worker, task, started, self._now(), None, error, result)
        self._dispatcher.remove_lost(worker)
        self._runner.settlement.drop_requeued()

    def _examine(self, worker: RemoteWorker) -> WorkerLoss:
        """Find out which tasks a process had begun that has gone or is not to be trusted."""
        detail, code, by_pool = "its worker process did not start", None, self._reports.ended_by_pool(worker)
        if worker.process is not None:
            kill(worker.process)
            code = worker.join_or_kill()
            detail = how_it_ended(worker.process.pid, code)
        if worker.connection is None or not worker.sent:
            return WorkerLoss([], timed_out=False, detail=detail, code=code, by_pool=by_pool)
        timed_out = worker.timed_out == worker.answered + 1
        with worker.lock:
            begun = len(worker.sent) - worker.connection.revoke(len(worker.sent))
        if timed_out or worker.sizes[0] > MAX_BYTES_AHEAD:  # to read it may have been too much
            begun = max(1, begun)
        return WorkerLoss(list(worker.sent)[:begun], timed_out, detail, code, by_pool)

    def _report(self, worker: RemoteWorker, loss: WorkerLoss) -> None:
        if loss.by_pool:
            return
        begun = loss.begun[0] if loss.begun else None
        if loss.cause is None:
            loss.cause = self._reports.lost(worker, loss.code, begun)
        if not loss.logged:
            loss.logged = True
            self._reports.log_lost(worker, loss.code, begun, loss.cause)

    def _returns_to_queue(self, worker: RemoteWorker, task: Task, loss: WorkerLoss) -> bool:
        """Tell whether a worker's task goes back into the queue, and with it all that it has ahead."""
        if task.counted or task.dropped is not None:
            return False
        return not worker.counts_as_running or task not in loss.begun or self._runs_again(loss, task)

    def _runs_again(self, loss: WorkerLoss, task: Task) -> bool:
        """Tell whether a task that has lost its process is to be run again, and count that."""
        if loss.again is None:
            again = (
                len(loss.begun) == 1
                and is_repeatable(task)
                and not loss.timed_out
                and self._dispatcher.state is not State.STOPPED
            )
            task.attempt += again
            task.packed = None
            loss.again = again
        return loss.again

    def _error_of(self, loss: WorkerLoss, task: Task) -> tuple[BaseException, Result]:
        if loss.timed_out and task is loss.begun[0]:
            limit = task.options.timeout or 0.0
            return TaskTimeoutError(pool=self._pool, task=task.name, timeout=limit), Result.TIMEOUT
        error = WorkerLostError(pool=self._pool, task=task.name, detail=loss.detail)
        error.__cause__ = BrokenProcessPool(loss.detail)
        return error, Result.PANIC
