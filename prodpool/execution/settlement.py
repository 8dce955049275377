"""Settling tasks: the only way out of the pool for a task, whether it ran or not.

The order is fixed: the counters and the worker's place first, then the permits and the observers (the span,
the log), and the future's result last. So a thread that wakes up on the result reads metrics that include the
task already. Threads of their own end spans and write log lines; no task waits for these threads.

A signal handler may raise, and an allocation may fail, at any call. Counters and place change in one run of
stores without a call in between (see `Dispatcher`). ``Task.counted``, ``Task.outcome`` and ``Task.dropped``
say how far a settlement is, so that a later call can do the rest of one that was interrupted.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, cast

from prodpool.admission.permits import release_all
from prodpool.concurrency.call_thread import CallThread
from prodpool.errors import TaskExpiredError, WorkerLostError
from prodpool.scheduling.worker import Worker
from prodpool.task.coroutines import coroutine_refusal
from prodpool.task.ending import ABANDONED, Ending, RunBy, TaskObserver, ended_hooks
from prodpool.task.future import CANCELLED, FINISHED
from prodpool.task.future_owner import CallbackRunner
from prodpool.task.outcomes import Reason, Result, State
from prodpool.telemetry.tracebacks import without_own_frames
from prodpool.text import shown

if TYPE_CHECKING:
    from prodpool.scheduling.dispatcher import Dispatcher
    from prodpool.task.task import Task
    from prodpool.telemetry.counters import Exemplar
    from prodpool.telemetry.telemetry_errors import TelemetryErrors


class Settlement:
    """Settles the tasks of one pool.

    Args:
        pool: The pool's name, for errors.
        dispatcher: What gives a place back.
        observers: Called with each ending, in this order.
        exemplar: Returns the link from a histogram to the trace of a task.
        telemetry_errors: Counts and reports what an observer raises.
        call_thread: Makes the callbacks of tasks that were dropped or abandoned.
        slow_after: Seconds from which a run counts as slow.
        now: The pool's clock.
    """

    def __init__(
        self,
        *,
        pool: str,
        dispatcher: Dispatcher,
        observers: Sequence[TaskObserver],
        exemplar: Callable[[Task, float], Exemplar | None],
        telemetry_errors: TelemetryErrors,
        call_thread: CallThread,
        slow_after: float,
        now: Callable[[], float],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._ended = ended_hooks(observers)
        # Whether each task has to come by here, also one that ends well and fast.
        self.every_task = bool(dispatcher.counters.by_task) or any(one.every_task for one in observers)
        self._exemplar = exemplar
        self._telemetry_errors = telemetry_errors
        self._call_thread = call_thread
        self._slow_after = slow_after
        self._now = now
        # The tasks that were counted and not settled when the watchdog looked last.
        self._unsettled: set[Task] = set()

    # Tasks that ran.

    def completed(
        self,
        worker: Worker,
        task: Task,
        started: float,
        value: Any,
        error: BaseException | None,
        *,
        ran_by: RunBy = RunBy.WORKER,
        ended: float | None = None,
        result: Result | None = None,
    ) -> None:
        """Settle a task that ran from ``started`` to ``ended``, in seconds of the pool's clock.

        ``ended`` is now if it is not given, ``result`` follows from ``error``. A coroutine is no result.
        """
        dwell = max(0.0, started - task.admitted_at)
        duration = max(0.0, (self._now() if ended is None else ended) - started)
        if type(value) is CoroutineType:
            value, error = None, coroutine_refusal(task.fn, value)
        elif error is not None:
            error = sanitized(error)
        task.outcome = value, error
        ending = Ending(result or classify(error), error, dwell, duration, ran_by)
        self._count(worker, task, ending)
        try:
            self._record_and_notify(task, ending)
        finally:
            self.resume(worker, task)

    def resume(self, worker: Worker, task: Task) -> None:
        """Finish the settlement of a task that is counted: set its result and make its callbacks."""
        if task.dropped is not None:
            self.dropped(task)
            return
        if task.permits:
            # An interrupt came before they were returned. A breaker must have its probe back even so.
            self._release_permits(task)
        future, outcome = task.future, task.outcome
        if outcome is not None:
            future.set_outcome(FINISHED, *outcome)
            task.outcome = None
        has_callbacks = future._callbacks is not None  # noqa: SLF001
        future.announce(partial(self._call_back, worker) if has_callbacks else None)

    def abandoned(self, task: Task, run_callbacks: CallbackRunner, detail: str) -> bool:
        """End the future of a task that still runs; False if the task has ended after all."""
        if (outcome := task.outcome) is not None:  # it has, and an observer hangs
            task.future.resolve(FINISHED, *outcome, run_callbacks)
            return False
        error = WorkerLostError(pool=self._pool, task=task.name, detail=detail)
        if not task.future.set_outcome(FINISHED, None, error):
            return False
        # Counted before a thread that waits for the future goes on.
        self._dispatcher.count_abandoned()
        task.future.announce(run_callbacks)
        # It keeps its permits until it ends. It is the task whose trace is wanted.
        self._notify_observers(task, Ending(ABANDONED, error, 0.0, 0.0, RunBy.WORKER))
        return True

    # Tasks that were admitted, never ran, and are counted as dropped by now.

    def dropped(
        self, task: Task, run_callbacks: CallbackRunner | None = None, *, lost: BaseException | None = None
    ) -> None:
        """Settle a dropped task; ``lost`` is what broke its backend, if that is why.

        It may be interrupted anywhere and called again; it goes on where it was.
        """
        future = task.future
        if not future.done():
            reason = task.dropped or Reason.SHUTDOWN
            dwell = self._now() - task.admitted_at
            error = self._drop_error(task, reason, dwell, lost)
            future.set_outcome(CANCELLED if error is None else FINISHED, None, error)
            self._release_permits(task)
            self._notify_observers(task, Ending(reason, error, dwell, 0.0, None))
        elif task.permits:
            self._release_permits(task)
        future.announce(run_callbacks)
        # A future that is kept must not keep the arguments of a call that never happened.
        task.forget_call()
        self._dispatcher.mark_settled(task)

    def dropped_later(self, tasks: Iterable[Task]) -> None:
        """Settle dropped tasks; another thread makes their callbacks."""
        for task in tasks:
            self.dropped(task, self._call_thread.call_soon)

    def drop_requeued(self) -> None:
        """Drop what was put back into the queue after the stop had dropped everything there."""
        if self._dispatcher.state is State.STOPPED:
            self.dropped_later(self._dispatcher.drop_queued(Reason.SHUTDOWN))

    def drop_expired(self, run_callbacks: CallbackRunner | None = None) -> None:
        """Drop the queued tasks whose deadline has passed, also when every worker hangs."""
        for task in self._dispatcher.expired(self._now()):
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.dropped(task, run_callbacks)

    def _drop_error(
        self, task: Task, reason: Reason, dwell: float, lost: BaseException | None
    ) -> BaseException | None:
        if reason is Reason.EXPIRED:
            deadline = task.options.deadline or 0.0
            return TaskExpiredError(pool=self._pool, task=task.name, deadline=deadline, dwell=dwell)
        if lost is None:
            return None
        detail = f"the wrapped executor broke: {shown(lost)}"
        error = WorkerLostError(pool=self._pool, task=task.name, detail=detail, began=False)
        error.__cause__ = lost
        return error

    # Both.

    def left_over(self) -> None:
        """Settle tasks that are counted and not settled since the last call; called at intervals.

        An interrupt, or an observer that hangs, has kept the thread from it that dropped or ran them.
        """
        with self._dispatcher.lock:
            unsettled = set(self._dispatcher.unsettled)
            tasks = [worker.task for worker in self._dispatcher.worker_set.workers]
        unsettled.update(
            task for task in tasks if task is not None and task.outcome is not None and task.counted
        )
        for task in unsettled & self._unsettled:
            if task.dropped is not None:
                self.dropped(task, self._call_thread.call_soon)
            elif (outcome := task.outcome) is not None:
                task.future.resolve(FINISHED, *outcome, self._call_thread.call_soon)
        # The thread that counted a new one may be about to settle it.
        self._unsettled = unsettled

    def _record_and_notify(self, task: Task, ending: Ending) -> None:
        for source, permit in task.permits:
            try:
                source.record(permit, ending.error, ending.duration)
            except Exception as error:  # noqa: BLE001
                self._telemetry_errors.report("internal", error)
        task.permits = ()
        self._notify_observers(task, ending)

    def _notify_observers(self, task: Task, ending: Ending) -> None:
        for ended in self._ended:
            try:
                ended(task, ending)
            except Exception as error:  # noqa: BLE001  # the result must come all the same
                self._telemetry_errors.report("internal", error)

    def _release_permits(self, task: Task) -> None:
        release_all(task.permits)
        task.permits = ()

    def _call_back(self, worker: Worker, callbacks: Callable[[], None]) -> None:
        """Make a task's done-callbacks, which are watched as the task was."""
        outer = worker.calling_back
        worker.calling_back = self._now(), threading.get_ident()
        try:
            callbacks()
        finally:
            worker.calling_back = outer

    # One step under the lock, in one piece: it may not call anything between its stores.
    def _count(self, worker: Worker, task: Task, ending: Ending) -> None:
        """Count a task as completed and free its place, as `Runner.run` does itself."""
        kind, _, dwell, duration, ran_by = ending
        result = cast("Result", kind)
        links = self._exemplar(task, dwell), self._exemplar(task, duration)
        dispatcher = self._dispatcher
        counters, worker_set = dispatcher.counters, dispatcher.worker_set
        dwells, durations = counters.dwell, counters.duration
        waited, took = bisect_left(dwells.bounds, dwell), bisect_left(durations.bounds, duration)
        # Up to 3.11 to name a member of an enum is a call, and wants memory.
        ok, by_caller, by_waiter = result is Result.OK, ran_by is RunBy.CALLER, ran_by is RunBy.WAITER
        by_worker = ran_by is RunBy.WORKER
        not_ok = counters.not_ok
        named = counters.of_task(task.name) if counters.by_task else None
        so_many_named, run_seconds = 0, 0.0
        with dispatcher.lock:
            dwells.keep(waited, links[0])
            durations.keep(took, links[1])
            # What may want memory comes first; from then on there are stores, and no call.
            so_many = (counters.ok if ok else not_ok[result]) + 1
            slow = counters.slow + 1 if duration >= self._slow_after else counters.slow
            # Those of a task run inline are part of those of the task that waits for it.
            busy = counters.busy_seconds + (duration if by_worker else 0.0)
            submitted, running = counters.submitted + 1, worker_set.running - 1
            inline = dispatcher.inline - 1
            so_many_waited, so_many_took = dwells.counts[waited] + 1, durations.counts[took] + 1
            total_waited, total_took = dwells.total + dwell, durations.total + duration
            if named is not None:
                so_many_named, run_seconds = named.results[result] + 1, named.run_seconds + duration
            if ok:
                counters.ok = so_many
            else:
                not_ok[result] = so_many
            counters.slow = slow
            counters.busy_seconds = busy
            dwells.counts[waited] = so_many_waited
            dwells.total = total_waited
            durations.counts[took] = so_many_took
            durations.total = total_took
            if named is not None:
                named.results[result] = so_many_named
                named.run_seconds = run_seconds
            task.counted = True
            if by_caller:
                counters.submitted = submitted
                return
            if by_waiter:
                dispatcher.inline = inline
            else:
                worker.started = None
                if worker.counts_as_running:
                    worker.counts_as_running = False
                    worker_set.running = running
            dispatcher.use_freed_slot()
        dispatcher.notify_waiters()


def classify(error: BaseException | None) -> Result:
    """Sort an outcome: an ``Exception`` is an error, any other ``BaseException`` a panic."""
    if error is None:
        return Result.OK
    return Result.ERROR if isinstance(error, Exception) else Result.PANIC


def sanitized(error: BaseException) -> BaseException:
    """Return ``error`` as the future may carry it.

    Its traceback loses this package's frames, whose locals would keep the task alive in a cycle.
    A StopIteration would hang an asyncio waiter before Python 3.13: no asyncio future can hold one.
    """
    # No assignment, for an exception may be a frozen dataclass; and not its own method, which may be odd.
    BaseException.with_traceback(error, without_own_frames(error.__traceback__))
    if isinstance(error, StopIteration):
        replaced = RuntimeError("task raised StopIteration")
        replaced.__cause__ = error
        return replaced
    return error
