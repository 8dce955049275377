"""Running tasks: in a worker, inside a task that waits, or in the submitter's thread.

`Settlement` does what follows on a run. For a task that ends well, fast and unobserved `Runner.run` does it
itself, without a call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from prodpool.admission.permits import success_may_hang
from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.interrupts import held_here, meant_for_thread
from prodpool.execution.current_task import is_inside, thread_state
from prodpool.scheduling.worker import Worker
from prodpool.task.ending import RunBy
from prodpool.task.future import FINISHED, RUNNING
from prodpool.task.outcomes import Reason, Result
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.task.task import callable_name

if TYPE_CHECKING:
    from prodpool.execution.settlement import Settlement
    from prodpool.scheduling.dispatcher import Dispatcher
    from prodpool.task.task import Task
    from prodpool.telemetry.log_events import PoolLog
    from prodpool.telemetry.telemetry_errors import TelemetryErrors
    from prodpool.telemetry.tracing import Tracing


class Runner:
    """Runs and settles the tasks of one pool; the owner of their futures."""

    def __init__(
        self,
        *,
        pool: str,
        dispatcher: Dispatcher,
        settlement: Settlement,
        permits_may_hang: bool,
        tracing: Tracing,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        slow_after: float,
        now: Callable[[], float],
    ) -> None:
        self.pool = pool
        self.lock = dispatcher.lock
        self.settlement = settlement
        self._dispatcher = dispatcher
        self._counters = dispatcher.counters
        # Whether a source of permits is the application's own, in which a listener may hang: a task is
        # counted before such a source hears of it.
        self._permits_may_hang = permits_may_hang
        self._tracing = tracing
        self._log = log
        self._telemetry_errors = telemetry_errors
        # From this duration on a task is settled the long way; 0 if all are.
        self._slow_after = 0.0 if settlement.every_task else slow_after
        self._now = now

    def run(self, worker: Worker, task: Task) -> Task | None:  # noqa: C901  # the hot path, without calls
        """Run ``task``, settle it and return the worker's next one; None: it is parked or dismissed.

        This is the hot path. A task that ends well, in time, unrecorded and without callbacks is settled
        here, with the lock taken once; `Settlement` settles all others. `recover` deals with an exception out
        of here that is not the task's own.
        """
        started = self._now()
        if task.expires_at is not None and started >= task.expires_at:
            return self.expire(worker, task)
        worker.started = started
        try:
            if self._tracing.wanted(started):
                value = self._tracing.run(task, started)
            else:
                value = task.context.run(task.fn, *task.args, **task.kwargs)
        except BaseException as error:  # noqa: BLE001  # a worker outlives whatever a task raises
            try:
                return self._settle(worker, task, started, None, error)
            finally:
                # This frame stays in the failed task's traceback; `task` would close a cycle in it.
                del task
        ended = self._now()
        duration = ended - started
        if (
            duration >= self._slow_after
            or task.recorded
            or type(value) is CoroutineType
            or (self._permits_may_hang and success_may_hang(task.permits))
        ):
            return self._settle(worker, task, started, value, None, ended)
        if task.permits:
            for source, permit in task.permits:
                source.record(permit, None, duration)
            task.permits = ()
        dispatcher, counters, future = self._dispatcher, self._counters, task.future
        dwells, durations, worker_set = counters.dwell, counters.duration, dispatcher.worker_set
        dwell = started - task.admitted_at
        waited, took = bisect_left(dwells.bounds, dwell), bisect_left(durations.bounds, duration)
        following: Task | None = None
        with self.lock:
            quick = future._cond is None and future._callbacks is None  # noqa: SLF001
            if quick:
                # What may want memory comes first; from then on there are stores, and no call.
                ok, busy, running = counters.ok + 1, counters.busy_seconds + duration, worker_set.running - 1
                so_many_waited, so_many_took = dwells.counts[waited] + 1, durations.counts[took] + 1
                total_waited, total_took = dwells.total + dwell, durations.total + duration
                counters.ok = ok
                counters.busy_seconds = busy
                dwells.counts[waited] = so_many_waited
                dwells.total = total_waited
                durations.counts[took] = so_many_took
                durations.total = total_took
                worker.started = None
                worker.counts_as_running = False
                worker_set.running = running
                task.counted = True
                # As `PoolFuture._set_state` does; the state last.
                future._result = value  # noqa: SLF001
                future._task = None  # noqa: SLF001
                future._state = FINISHED  # noqa: SLF001
                # Before the worker forgets the task: should this fail, `recover` has to know of it.
                if future._waiter_locks is not None:  # noqa: SLF001
                    future.wake()
                following = dispatcher.next_task(worker)
        if not quick:
            return self._settle(worker, task, started, value, None, ended)
        if dispatcher.waiters.to_notify.length:
            dispatcher.waiters.notify()
        return following

    def recover(self, worker: Worker, error: BaseException) -> Task | None:
        """Go on after ``error`` came out of `run`, by no fault of the task; return the worker's next task.

        That is a failed allocation, or a fault of ours. The task is settled as far as it was not.
        """
        self._telemetry_errors.report("internal", error)
        if not worker.begun:
            return self._dispatcher.mark_started(worker)
        with self.lock:
            parked, task = worker.prev is not None, worker.task
        if parked:
            return None
        if task is None:
            return self._next_task(worker)
        if worker.started is None and not task.counted and task.dropped is None:
            return task  # it has not begun
        return self.settle_anyway(worker, task, error)

    def settle_anyway(self, worker: Worker, task: Task, error: BaseException) -> Task | None:
        """Do what is left of a settlement that ``error`` has interrupted; return the worker's next task."""
        if task.counted or task.dropped is not None:
            self.settlement.resume(worker, task)
            return self._next_task(worker)
        value, raised = task.outcome or (None, error)
        started = self._now() if worker.started is None else worker.started
        return self._settle(worker, task, started, value, raised)

    def settle(
        self,
        worker: Worker,
        task: Task,
        started: float,
        ended: float,
        value: Any,
        error: BaseException | None,
        result: Result | None = None,
    ) -> Task | None:
        """Settle a task that ran elsewhere, from ``started`` to ``ended`` in seconds of the pool's clock.

        ``result`` is None where the outcome says it. Returns the next task of its worker.
        """
        return self._settle(worker, task, started, value, error, ended, result)

    def fail_unstarted(self, worker: Worker, task: Task, error: BaseException | None) -> Task | None:
        """Settle a task that its worker could not begin; return the worker's next one."""
        self._dispatcher.drop_assigned(worker, task, Reason.SHUTDOWN)
        self.settlement.dropped(task, lost=error or BrokenExecutor("it takes no more tasks"))
        return self._next_task(worker)

    def has_expired(self, task: Task, now: float) -> bool:
        """Tell whether a task is not to be begun any more."""
        return task.expires_at is not None and now >= task.expires_at

    def trace_context(self, task: Task, now: float) -> dict[str, str] | None:
        """Begin the span of a task that will run elsewhere; return what makes spans there its children."""
        return self._tracing.hand_over(task, now)

    def run_by_caller(self, task: Task) -> None:
        """Run ``task`` in the submitter's thread (``overload="caller_runs"``)."""
        worker = Worker(self.pool, self._now)
        worker.task = task
        # Stands in for the thread while the task runs; what the thread really is stays in sight.
        worker.replaced = thread_state.worker
        task.future._state = RUNNING  # noqa: SLF001
        thread_state.worker = worker
        try:
            error = self._run_outside_worker(worker, task, RunBy.CALLER)
        finally:
            thread_state.worker = worker.replaced
        if isinstance(error, KeyboardInterrupt):
            # Meant for the thread, which is the caller's, and not for the task.
            try:
                raise error
            finally:
                del error, task  # this frame is in its traceback

    # What futures ask of their owner.

    def cancel(self, task: Task) -> bool:
        """Take a queued task out of the pool for good; False when it is too late, and it is told to end."""
        check_stack_depth()
        try:
            if not self._dispatcher.discard(task, Reason.CANCELLED):
                self._tell(task)
                return False
            if held_here(self.lock):
                # A destructor or a signal handler on top of a frame of ours: what comes next may want locks
                # that others hold who wait for this one. It is done right afterwards.
                background_thread().call_soon(partial(self.settlement.dropped_later, [task]))
            else:
                self.settlement.dropped(task)
        except BaseException:
            self._dispatcher.repair()
            if task.dropped is not None:
                self.settlement.dropped(task)  # from where it was interrupted
            raise
        return True

    def _tell(self, task: Task) -> None:
        """Ask a running task to end."""
        token = task.cancel_token
        if task.dropped is not None or (token is not None and token.is_set()):
            return
        # It reads this whenever it looks. Who waits for it is woken by another thread: the caller may be a
        # signal handler, or a destructor, on top of the very frame that waits, with the lock of its event.
        call = partial(self._dispatcher.request_cancel, task)
        task.cancel_requested = True
        if not background_thread().call_soon(call):
            call()

    def run_inline(self, task: Task) -> None:
        """Run ``task`` in the calling thread if that is a worker of this pool and it still waits."""
        worker = thread_state.worker
        if worker is None or not is_inside(self._dispatcher.worker_set.workers):
            return
        check_stack_depth()
        if task.expires_at is not None and self._now() >= task.expires_at:
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.settlement.dropped(task)
            return
        if not self._dispatcher.claim_inline(task):
            return
        worker.inline_tasks.append(task)
        try:
            self._run_outside_worker(worker, task, RunBy.WAITER)
        finally:
            worker.inline_tasks.pop()

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Count and log a done-callback that raised."""
        self._telemetry_errors.count("callback")
        self._log.callback_failed(callable_name(fn), error)

    def around_failed(self, error: BaseException) -> None:
        """Count what the context manager around a task raised, unless that is meant for the thread."""
        if meant_for_thread(error):
            raise error
        self._telemetry_errors.report("around", error)

    def telemetry_failed(self, errors: Iterable[tuple[str, str]]) -> None:
        """Count what was raised around a task in another process; each with its sink and stack."""
        for sink, stack in errors:
            self._telemetry_errors.report(sink, RemoteTraceback(stack))

    def _settle(
        self,
        worker: Worker,
        task: Task,
        started: float,
        value: Any,
        error: BaseException | None,
        ended: float | None = None,
        result: Result | None = None,
    ) -> Task | None:
        self.settlement.completed(worker, task, started, value, error, ended=ended, result=result)
        return self._next_task(worker)

    def _next_task(self, worker: Worker) -> Task | None:
        with self.lock:
            task = self._dispatcher.next_task(worker)
        self._dispatcher.notify_waiters()
        return task

    def expire(self, worker: Worker, task: Task) -> Task | None:
        """Drop a task that its worker finds expired; return the worker's next one."""
        self._dispatcher.drop_assigned(worker, task, Reason.EXPIRED)
        self.settlement.dropped(task)
        return self._next_task(worker)

    def _run_outside_worker(self, worker: Worker, task: Task, ran_by: RunBy) -> BaseException | None:
        started = self._now()
        task.began_at = started
        if ran_by is RunBy.CALLER:
            worker.started = started
        began = False
        try:
            traced = self._tracing.wanted(started)
            began = True
            if traced:
                value, error = self._tracing.run(task, started), None
            else:
                value, error = task.context.run(task.fn, *task.args, **task.kwargs), None
        except BaseException as raised:  # noqa: BLE001
            value, error = None, raised
        try:
            self.settlement.completed(worker, task, started, value, error, ran_by=ran_by)
        except BaseException:
            # Interrupted in the midst of it: what is left is done all the same.
            if task.counted:
                self.settlement.resume(worker, task)
            else:
                self.settlement.completed(worker, task, started, value, error, ran_by=ran_by)
            raise
        finally:
            # This frame stays in the failed task's traceback; `task` would close a cycle in it.
            del task
        if error is not None and not began and meant_for_thread(error):
            try:
                raise error
            finally:
                del error
        return error


def check_stack_depth(frames: int = 60) -> None:
    """Raise RecursionError now, with nothing changed, rather than in the middle of a settlement."""
    if frames:
        check_stack_depth(frames - 1)
