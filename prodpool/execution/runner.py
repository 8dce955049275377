"""Running one task and settling it: the only way out of the pool for a task.

The order at settlement is fixed: the tallies and the worker's place first, then the breaker, the span
and the log, and the future's result last, so that whoever wakes up on the result reads metrics that include
the task already. Spans and log lines are handed to threads of their own, which nobody waits for.

A signal handler may raise, and an allocation may fail, at any call. Tallies and place change in one run of
stores without a call in between (see `Dispatcher`). ``Task.counted`` and ``Task.outcome`` say how far a
settlement is, so that whoever interrupts it, or comes after, can do the rest.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.call_thread import CallThread
from prodpool.concurrency.interrupts import held_here, meant_for_thread
from prodpool.errors import TaskExpiredError, WorkerLostError
from prodpool.execution.current_task import is_inside, thread_state
from prodpool.scheduling.worker import Worker
from prodpool.task.future import CANCELLED, FINISHED, RUNNING, CallbackRunner
from prodpool.task.outcomes import Reason, Result, State
from prodpool.task.task import callable_name
from prodpool.telemetry.tracebacks import without_own_frames
from prodpool.text import shown

if TYPE_CHECKING:
    from prodpool.admission.breaker.breaker import Breaker
    from prodpool.scheduling.dispatcher import Dispatcher
    from prodpool.task.task import Task
    from prodpool.telemetry.log_events import PoolLog
    from prodpool.telemetry.telemetry_errors import TelemetryErrors
    from prodpool.telemetry.tracing import Tracing


class RunBy(Enum):
    """On whose place a task runs, which is what its settlement gives back."""

    WORKER = auto()
    ASSISTED = auto()  # inside a task of the same pool that waits for it
    CALLER = auto()  # in the submitter's own thread, counted only when it has ended


class Runner:
    """Runs and settles the tasks of one pool; the home of their futures."""

    def __init__(
        self,
        *,
        pool: str,
        dispatcher: Dispatcher,
        breaker: Breaker | None,
        tracing: Tracing,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        call_thread: CallThread,
        slow_after: float,
        now: Callable[[], float],
    ) -> None:
        self.pool = pool
        self.lock = dispatcher.lock
        self._dispatcher = dispatcher
        self._counters = dispatcher.counters
        self._breaker = breaker
        # The application's own, in which a listener may hang: a task is counted before it hears of it.
        self._shared = breaker if breaker is not None and breaker.shared else None
        self._tracing = tracing
        self._log = log
        self._telemetry_errors = telemetry_errors
        self._call_thread = call_thread
        self._slow_after = slow_after
        self._now = now
        # The tasks that were counted and not settled when the watchdog looked last.
        self._unsettled: set[Task] = set()

    def run(self, worker: Worker, task: Task) -> Task | None:
        """Run ``task``, settle it and return the worker's next one; None: it is parked or dismissed.

        This is the hot path. A task that ends well, in time, unrecorded and with nobody to call back
        is settled in line, with the lock taken once; all others take the long way (`_settle`). What is
        raised here that is not the task's own, `recover` takes up.
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
                return self._settle(worker, task, started, None, error, RunBy.WORKER)
            finally:
                # This frame stays in the failed task's traceback; `task` would close a cycle in it.
                del task
        ended = self._now()
        duration = ended - started
        if (
            duration >= self._slow_after
            or task.recorded
            or (self._shared is not None and self._shared.success_may_hang(task.permit))
        ):
            return self._settle(worker, task, started, value, None, RunBy.WORKER, ended)
        if task.permit is not None and self._breaker is not None:
            self._breaker.record(task.permit, None, duration)
            task.permit = None
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
                # As `PoolFuture._take`, in line; the state last.
                future._result = value  # noqa: SLF001
                future._task = None  # noqa: SLF001
                future._state = FINISHED  # noqa: SLF001
                # Before the worker forgets the task: should this fail, `recover` has to know of it.
                if future._waiter_locks is not None:  # noqa: SLF001
                    future.wake()
                following = dispatcher.next_task(worker)
        if not quick:
            return self._settle(worker, task, started, value, None, RunBy.WORKER, ended)
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
            self.complete(worker, task)
            return self._next_task(worker)
        value, raised = task.outcome or (None, error)
        started = self._now() if worker.started is None else worker.started
        return self._settle(worker, task, started, value, raised, RunBy.WORKER)

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
        return self._settle(worker, task, started, value, error, RunBy.WORKER, ended, result)

    def fail_unstarted(self, worker: Worker, task: Task, error: BaseException | None) -> Task | None:
        """Settle a task that its worker could not begin; return the worker's next one."""
        self._dispatcher.drop_assigned(worker, task, Reason.SHUTDOWN)
        self.settle_lost(task, error)
        return self._next_task(worker)

    def has_expired(self, task: Task, now: float) -> bool:
        """Tell whether a task is not to be begun any more."""
        return task.expires_at is not None and now >= task.expires_at

    def trace_context(self, task: Task, now: float) -> dict[str, str] | None:
        """Begin the span of a task that will run elsewhere; return what makes spans there its children."""
        return self._tracing.hand_over(task, now) if self._tracing.wanted(now) else None

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

    # What futures ask of their home.

    def cancel(self, task: Task) -> bool:
        """Take a queued task out of the pool for good; False when it is too late."""
        check_stack_depth()
        try:
            if not self._dispatcher.discard(task, Reason.CANCELLED):
                return False
            if held_here(self.lock):
                # A destructor or a signal handler on top of a frame of ours: what comes next may want locks
                # that others hold who wait for this one. It is done right afterwards.
                background_thread().call_soon(partial(self.settle_dropped_later, [task]))
            else:
                self.settle_dropped(task)
        except BaseException:
            self._dispatcher.repair()
            if task.dropped is not None:
                self.settle_dropped(task)  # from where it was interrupted
            raise
        return True

    def run_inline(self, task: Task) -> None:
        """Run ``task`` in the calling thread if that is a worker of this pool and it still waits."""
        worker = thread_state.worker
        if worker is None or not is_inside(self._dispatcher.worker_set.workers):
            return
        check_stack_depth()
        if task.expires_at is not None and self._now() >= task.expires_at:
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.settle_dropped(task)
            return
        if not self._dispatcher.claim_inline(task):
            return
        worker.inline_tasks.append(task)
        try:
            self._run_outside_worker(worker, task, RunBy.ASSISTED)
        finally:
            worker.inline_tasks.pop()

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Count and log a done-callback that raised."""
        self._telemetry_errors.count("callback")
        self._log.callback_failed(callable_name(fn), error)

    # What stop and the watchdog ask.

    def settle_dropped(self, task: Task, run_callbacks: CallbackRunner | None = None) -> None:
        """Settle a task that was admitted, is counted as dropped, and will never run.

        It may be interrupted anywhere and called again; it goes on where it was.
        """
        future = task.future
        if not future.done():
            now = self._now()
            if task.permit is not None and self._breaker is not None:
                self._breaker.release(task.permit)
            if task.dropped is Reason.EXPIRED:
                dwell = now - task.admitted_at
                deadline = task.options.deadline or 0.0
                expired = TaskExpiredError(pool=self.pool, task=task.name, deadline=deadline, dwell=dwell)
                future.set_outcome(FINISHED, None, expired)
            else:
                future.set_outcome(CANCELLED, None, None)
            self._tracing.dropped(task, task.dropped or Reason.SHUTDOWN, now)
        self._finish_dropped(task, run_callbacks)

    def settle_lost(self, task: Task, error: BaseException | None) -> None:
        """Settle a task whose backend broke, counted as dropped by now; it will never run."""
        if task.permit is not None and self._breaker is not None:
            self._breaker.release(task.permit)
        self._tracing.dropped(task, Reason.SHUTDOWN, self._now())
        detail = f"the wrapped executor broke: {shown(error)}"
        lost = WorkerLostError(pool=self.pool, task=task.name, detail=detail, began=False)
        lost.__cause__ = error
        task.future.set_outcome(FINISHED, None, lost)
        self._finish_dropped(task, None)

    def _finish_dropped(self, task: Task, run_callbacks: CallbackRunner | None) -> None:
        task.future.announce(run_callbacks)
        # Whoever keeps the future must not keep the arguments of a call that never happened.
        task.forget_call()
        self._dispatcher.mark_settled(task)

    def settle_dropped_later(self, tasks: Iterable[Task]) -> None:
        """Settle dropped tasks, and have their callbacks made by a thread that nobody waits for."""
        for task in tasks:
            self.settle_dropped(task, self._call_thread.call_soon)

    def drop_requeued(self) -> None:
        """Drop what was put back into the queue after the stop had dropped everything there."""
        if self._dispatcher.state is State.STOPPED:
            self.settle_dropped_later(self._dispatcher.drop_queued(Reason.SHUTDOWN))

    def abandon(self, task: Task, run_callbacks: CallbackRunner, detail: str) -> bool:
        """Let nobody wait for a running task any longer; False when it has ended after all."""
        if (outcome := task.outcome) is not None:  # it has, and something hangs that was told of it
            task.future.resolve(FINISHED, *outcome, run_callbacks)
            return False
        error = WorkerLostError(pool=self.pool, task=task.name, detail=detail)
        if not task.future.resolve(FINISHED, None, error, run_callbacks):
            return False
        # A hung task is the one whose trace is wanted.
        self._tracing.finish(task, "abandoned", error)
        return True

    def settle_left_over(self) -> None:
        """Settle tasks that are counted and not settled since the last call; called at intervals.

        Whoever dropped them, or ran them, was kept from it: by an interrupt, or by an observer that hangs.
        """
        with self.lock:
            unsettled = set(self._dispatcher.unsettled)
            tasks = [worker.task for worker in self._dispatcher.worker_set.workers]
        unsettled.update(
            task for task in tasks if task is not None and task.outcome is not None and task.counted
        )
        for task in unsettled & self._unsettled:
            if task.dropped is not None:
                self.settle_dropped(task, self._call_thread.call_soon)
            elif (outcome := task.outcome) is not None:
                task.future.resolve(FINISHED, *outcome, self._call_thread.call_soon)
        # Those that are new are in the hands of whoever counted them.
        self._unsettled = unsettled

    def drop_expired(self, run_callbacks: CallbackRunner | None = None) -> None:
        """Drop the queued tasks whose deadline has passed, so that nobody waits for a hung pool."""
        for task in self._dispatcher.expired(self._now()):
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.settle_dropped(task, run_callbacks)

    # The long way.

    def _next_task(self, worker: Worker) -> Task | None:
        with self.lock:
            task = self._dispatcher.next_task(worker)
        self._dispatcher.notify_waiters()
        return task

    def expire(self, worker: Worker, task: Task) -> Task | None:
        """Drop a task that its worker finds expired; return the worker's next one."""
        self._dispatcher.drop_assigned(worker, task, Reason.EXPIRED)
        self.settle_dropped(task)
        return self._next_task(worker)

    def _run_outside_worker(self, worker: Worker, task: Task, place: RunBy) -> BaseException | None:
        started = self._now()
        task.began_at = started
        if place is RunBy.CALLER:
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
            self._settle(worker, task, started, value, error, place)
        except BaseException:
            # Interrupted in the midst of it: what is left is done all the same.
            if task.counted:
                self.complete(worker, task)
            else:
                self._settle(worker, task, started, value, error, place)
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

    def _settle(
        self,
        worker: Worker,
        task: Task,
        started: float,
        value: Any,
        error: BaseException | None,
        place: RunBy,
        ended: float | None = None,
        result: Result | None = None,
    ) -> Task | None:
        """Settle a task the long way; return the next one of its worker, if it ran on a worker's place."""
        dwell = max(0.0, started - task.admitted_at)
        duration = max(0.0, (self._now() if ended is None else ended) - started)
        result = result or classify(error)
        if error is not None:
            error = sanitized(error)
        task.outcome = value, error
        self._count(worker, task, result, dwell, duration, place)
        try:
            if task.permit is not None and self._breaker is not None:
                self._breaker.record(task.permit, error, duration)
                task.permit = None
            self._tracing.finish(task, result.value, error)
            if error is not None:
                self._log.task_failed(task, result, error, duration=duration)
            if duration >= self._slow_after:
                self._log.task_slow(task, dwell=dwell, duration=duration, result=result.value)
        except Exception as telemetry_errors:  # noqa: BLE001
            # Whatever an observer got up to, nobody may wait for this result for ever.
            self._telemetry_errors.report("internal", telemetry_errors)
        finally:
            self.complete(worker, task)
        return self._next_task(worker) if place is RunBy.WORKER else None

    def complete(self, worker: Worker, task: Task) -> None:
        """Give a task that is counted its result, or go on with telling of it where that was left."""
        if task.dropped is not None:
            self.settle_dropped(task)
            return
        if task.permit is not None and self._breaker is not None:
            # An interrupt came before the breaker was told. It is to have its probe back all the same.
            self._breaker.release(task.permit)
            task.permit = None
        future, outcome = task.future, task.outcome
        if outcome is not None:
            future.set_outcome(FINISHED, *outcome)
            task.outcome = None
        has_callbacks = future._callbacks is not None  # noqa: SLF001
        future.announce(partial(self._call_back, worker) if has_callbacks else None)

    def _call_back(self, worker: Worker, callbacks: Callable[[], None]) -> None:
        """Make a task's done-callbacks, which are watched as the task was."""
        outer = worker.calling_back
        worker.calling_back = self._now(), threading.get_ident()
        try:
            callbacks()
        finally:
            worker.calling_back = outer

    def _count(
        self, worker: Worker, task: Task, result: Result, dwell: float, duration: float, place: RunBy
    ) -> None:
        """Count a task as completed and give back its place, as `run` does in line."""
        links = self._tracing.exemplar(task, dwell), self._tracing.exemplar(task, duration)
        counters, dispatcher = self._counters, self._dispatcher
        dwells, durations, worker_set = counters.dwell, counters.duration, dispatcher.worker_set
        waited, took = bisect_left(dwells.bounds, dwell), bisect_left(durations.bounds, duration)
        # Up to 3.11 to name a member of an enum is a call, and wants memory.
        ok, by_caller, assisting = result is Result.OK, place is RunBy.CALLER, place is RunBy.ASSISTED
        with self.lock:
            dwells.keep(waited, links[0])
            durations.keep(took, links[1])
            # What may want memory comes first; from then on there are stores, and no call.
            so_many = (counters.ok if ok else counters.not_ok[result]) + 1
            slow = counters.slow + 1 if duration >= self._slow_after else counters.slow
            # Those of a task run inline are part of those of the task that waits for it.
            busy = counters.busy_seconds + (duration if place is RunBy.WORKER else 0.0)
            submitted, running = counters.submitted + 1, worker_set.running - 1
            inline = dispatcher.inline - 1
            so_many_waited, so_many_took = dwells.counts[waited] + 1, durations.counts[took] + 1
            total_waited, total_took = dwells.total + dwell, durations.total + duration
            if ok:
                counters.ok = so_many
            else:
                counters.not_ok[result] = so_many
            counters.slow = slow
            counters.busy_seconds = busy
            dwells.counts[waited] = so_many_waited
            dwells.total = total_waited
            durations.counts[took] = so_many_took
            durations.total = total_took
            task.counted = True
            if by_caller:
                counters.submitted = submitted
                return
            if assisting:
                dispatcher.inline = inline
            else:
                worker.started = None
                if worker.counts_as_running:
                    worker.counts_as_running = False
                    worker_set.running = running
            dispatcher.use_freed_slot()
        dispatcher.notify_waiters()


def check_stack_depth(frames: int = 60) -> None:
    """Raise RecursionError now, with nothing changed, rather than in the middle of a settlement."""
    if frames:
        check_stack_depth(frames - 1)


def classify(error: BaseException | None) -> Result:
    """Sort an outcome: an ``Exception`` is an error, any other ``BaseException`` a panic."""
    if error is None:
        return Result.OK
    return Result.ERROR if isinstance(error, Exception) else Result.PANIC


def sanitized(error: BaseException) -> BaseException:
    """Return ``error`` as the future may carry it.

    Its traceback loses this package's frames, whose locals would keep the task alive in a cycle.
    A StopIteration would hang an asyncio waiter before Python 3.13, which cannot be told of one.
    """
    # No assignment, for an exception may be a frozen dataclass; and not its own method, which may be odd.
    BaseException.with_traceback(error, without_own_frames(error.__traceback__))
    if isinstance(error, StopIteration):
        replaced = RuntimeError("task raised StopIteration")
        replaced.__cause__ = error
        return replaced
    return error
