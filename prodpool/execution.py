"""Running one task and settling it: the only way out of the pool for a task.

The order at settlement is fixed: the tallies, the worker's place and the permit first, then the
breaker, the span, the log, and the future's result last, so that whoever wakes up on the result reads
metrics that include the task already.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from prodpool.current import here, inside
from prodpool.errors import TaskExpiredError, WorkerLostError
from prodpool.futures import CANCELLED, FINISHED, Elsewhere
from prodpool.task import callable_name
from prodpool.telemetry.stacks import own_frames_dropped
from prodpool.vocabulary import Reason, Result
from prodpool.worker import Worker

if TYPE_CHECKING:
    from prodpool.admission.breaker import Breaker
    from prodpool.dispatch import Dispatcher
    from prodpool.task import Task
    from prodpool.telemetry.logs import PoolLog
    from prodpool.telemetry.tracing import Tracing
    from prodpool.telemetry.trouble import Trouble


class Place(Enum):
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
        trouble: Trouble,
        slow_after: float,
        now: Callable[[], float],
    ) -> None:
        self.pool = pool
        self.lock = dispatcher.lock
        self._dispatcher = dispatcher
        self._ledger = dispatcher.ledger
        self._breaker = breaker
        self._tracing = tracing
        self._log = log
        self._trouble = trouble
        self._slow_after = slow_after
        self._now = now

    def run(self, worker: Worker, task: Task) -> Task | None:
        """Run ``task``, settle it and return the worker's next one; None: it is parked or dismissed.

        This is the hot path. A task that ends well, in time, unrecorded and with nobody to call back
        is settled in line, with the lock taken once; all others take the long way (`_settle`).
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
                return self._settle(worker, task, started, None, error, Place.WORKER)
            finally:
                # This frame stays in the failed task's traceback; `task` would close a cycle in it.
                del task
        ended = self._now()
        duration = ended - started
        if duration >= self._slow_after or task.recorded:
            return self._settle(worker, task, started, value, None, Place.WORKER)
        if task.permit is not None and self._breaker is not None:
            self._breaker.record(task.permit, None, duration)
        dispatcher, ledger, future = self._dispatcher, self._ledger, task.future
        dwell = started - task.admitted_at
        following: Task | None = None
        woken: list[Worker] = []
        with self.lock:
            ledger.ok += 1
            ledger.busy_seconds += duration
            histogram = ledger.dwell
            histogram.counts[bisect_left(histogram.bounds, dwell)] += 1
            histogram.total += dwell
            histogram = ledger.duration
            histogram.counts[bisect_left(histogram.bounds, duration)] += 1
            histogram.total += duration
            worker.started = None
            quick = future.finish_quietly(value)
            if quick:
                worker.occupied = False  # as Roster.release does, in line
                dispatcher.roster.running -= 1
                following = dispatcher.take(worker)
            else:
                woken = dispatcher.release_running(worker)
        if quick:
            future.wake()
            if dispatcher.line.to_tell:
                dispatcher.line.tell()
            return following
        dispatcher.wake(woken)
        future.resolve(FINISHED, value, None)
        return self._next(worker)

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
        return self._settle(worker, task, started, value, error, Place.WORKER, ended, result)

    def give_back(self, worker: Worker, task: Task, error: BaseException | None) -> Task | None:
        """Settle a task that its worker could not begin; return the worker's next one."""
        with self.lock:
            self._ledger.dropped[Reason.SHUTDOWN] += 1
            woken = self._dispatcher.release_running(worker)
        self._dispatcher.wake(woken)
        self.lost(task, error)
        return self._next(worker)

    def has_expired(self, task: Task, now: float) -> bool:
        """Tell whether a task is not to be begun any more."""
        return task.expires_at is not None and now >= task.expires_at

    def carrier(self, task: Task, now: float) -> dict[str, str] | None:
        """Begin the span of a task that will run elsewhere; return what makes spans there its children."""
        return self._tracing.hand_over(task, now) if self._tracing.wanted(now) else None

    def run_by_caller(self, task: Task) -> None:
        """Run ``task`` in the submitter's thread (``overload="caller_runs"``)."""
        worker = Worker(self.pool, self._now)
        worker.task = task
        # Stands in for the thread while the task runs; what the thread really is stays in sight.
        worker.outer = here.worker
        task.future.begin()
        here.worker = worker
        try:
            error = self._run_aside(worker, task, Place.CALLER)
        finally:
            here.worker = worker.outer
        if isinstance(error, KeyboardInterrupt):
            # Meant for the thread, which is the caller's, and not for the task.
            raise error

    # What futures ask of their home.

    def cancel(self, task: Task) -> bool:
        """Take a queued task out of the pool for good; False when it is too late."""
        headroom()
        if not self._dispatcher.discard(task, Reason.CANCELLED):
            return False
        self.dropped(task, Reason.CANCELLED)
        return True

    def assist(self, task: Task) -> None:
        """Run ``task`` in the calling thread if that is a worker of this pool and it still waits."""
        worker = here.worker
        if worker is None or not inside(self._dispatcher.roster.workers):
            return
        headroom()
        if task.expires_at is not None and self._now() >= task.expires_at:
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.dropped(task, Reason.EXPIRED)
            return
        if not self._dispatcher.take_out(task):
            return
        worker.assisting.append(task)
        try:
            self._run_aside(worker, task, Place.ASSISTED)
        finally:
            worker.assisting.pop()

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Count and log a done-callback that raised."""
        self._trouble.count("callback")
        self._log.callback_failed(callable_name(fn), error)

    # What stop and the watchdog ask.

    def dropped(self, task: Task, reason: Reason, aside: Elsewhere | None = None) -> None:
        """Settle a task that was admitted, counted as dropped, and will never run."""
        if task.permit is not None and self._breaker is not None:
            self._breaker.release(task.permit)
        now = self._now()
        self._tracing.dropped(task, reason, now)
        if reason is Reason.EXPIRED:
            dwell = now - task.admitted_at
            deadline = task.options.deadline or 0.0
            error = TaskExpiredError(pool=self.pool, task=task.name, deadline=deadline, dwell=dwell)
            task.future.resolve(FINISHED, None, error, aside)
        else:
            task.future.resolve(CANCELLED, None, None, aside)
        # Whoever keeps the future must not keep the arguments of a call that never happened.
        task.forget_call()

    def lost(self, task: Task, error: BaseException | None) -> None:
        """Settle a task whose backend broke, counted as dropped by now; it will never run."""
        if task.permit is not None and self._breaker is not None:
            self._breaker.release(task.permit)
        self._tracing.dropped(task, Reason.SHUTDOWN, self._now())
        detail = f"the wrapped executor broke: {error!r}"
        lost = WorkerLostError(pool=self.pool, task=task.name, detail=detail, began=False)
        lost.__cause__ = error
        task.future.resolve(FINISHED, None, lost)
        task.forget_call()

    def abandon(self, task: Task, aside: Elsewhere) -> bool:
        """Let nobody wait for a running task any longer; False when it has ended after all."""
        detail = "it still ran when the pool's stop deadline passed"
        error = WorkerLostError(pool=self.pool, task=task.name, detail=detail)
        if not task.future.resolve(FINISHED, None, error, aside):
            return False
        # A hung task is the one whose trace is wanted.
        self._tracing.finish(task, "abandoned", error)
        return True

    def drop_expired(self, aside: Elsewhere | None = None) -> None:
        """Drop the queued tasks whose deadline has passed, so that nobody waits for a hung pool."""
        for task in self._dispatcher.expired(self._now()):
            if self._dispatcher.discard(task, Reason.EXPIRED):
                self.dropped(task, Reason.EXPIRED, aside)

    # The long way.

    def _next(self, worker: Worker) -> Task | None:
        with self.lock:
            task = self._dispatcher.take(worker)
        if self._dispatcher.line.to_tell:
            self._dispatcher.line.tell()
        return task

    def expire(self, worker: Worker, task: Task) -> Task | None:
        """Drop a task that its worker finds expired; return the worker's next one."""
        with self.lock:
            self._ledger.dropped[Reason.EXPIRED] += 1
            woken = self._dispatcher.release_running(worker)
        self._dispatcher.wake(woken)
        self.dropped(task, Reason.EXPIRED)
        return self._next(worker)

    def _run_aside(self, worker: Worker, task: Task, place: Place) -> BaseException | None:
        started = self._now()
        task.began_at = started
        if place is Place.CALLER:
            worker.started = started
        try:
            if self._tracing.wanted(started):
                value, error = self._tracing.run(task, started), None
            else:
                value, error = task.context.run(task.fn, *task.args, **task.kwargs), None
        except BaseException as raised:  # noqa: BLE001
            value, error = None, raised
        self._settle(worker, task, started, value, error, place)
        # This frame stays in the failed task's traceback; `task` would close a cycle in it.
        del task
        return error

    def _settle(
        self,
        worker: Worker,
        task: Task,
        started: float,
        value: Any,
        error: BaseException | None,
        place: Place,
        ended: float | None = None,
        result: Result | None = None,
    ) -> Task | None:
        """Settle a task the long way; return the next one of its worker, if it ran on a worker's place."""
        dwell = max(0.0, started - task.admitted_at)
        duration = max(0.0, (self._now() if ended is None else ended) - started)
        result = result or classify(error)
        if error is not None:
            error = presentable(error)
        self._count(worker, task, result, dwell, duration, place)
        try:
            if task.permit is not None and self._breaker is not None:
                self._breaker.record(task.permit, error, duration)
            self._tracing.finish(task, result.value, error)
            if error is not None:
                self._log.task_failed(task, result, error, duration=duration)
            if duration >= self._slow_after:
                self._log.task_slow(task, dwell=dwell, duration=duration, result=result.value)
        except Exception as trouble:  # noqa: BLE001
            # Whatever an observer got up to, nobody may wait for this result for ever.
            self._trouble.report("internal", trouble)
        except BaseException:
            task.future.resolve(FINISHED, value, error)
            raise
        task.future.resolve(FINISHED, value, error)
        return self._next(worker) if place is Place.WORKER else None

    def _count(
        self, worker: Worker, task: Task, result: Result, dwell: float, duration: float, place: Place
    ) -> None:
        exemplars = self._tracing.exemplar(task, dwell), self._tracing.exemplar(task, duration)
        ledger, dispatcher = self._ledger, self._dispatcher
        woken: list[Worker] = []
        with self.lock:
            ledger.count_completed(result, dwell, duration, exemplars)
            ledger.slow += duration >= self._slow_after
            if place is Place.ASSISTED:
                # Its seconds are part of those of the task that waits for it.
                woken = dispatcher.release_assisted()
            elif place is Place.CALLER:
                ledger.submitted += 1
            else:
                ledger.busy_seconds += duration
                worker.started = None
                woken = dispatcher.release_running(worker)
        dispatcher.wake(woken)


def headroom(frames: int = 60) -> None:
    """Raise RecursionError now, with nothing changed, rather than in the middle of a settlement."""
    if frames:
        headroom(frames - 1)


def classify(error: BaseException | None) -> Result:
    """Sort an outcome: an ``Exception`` is an error, any other ``BaseException`` a panic."""
    if error is None:
        return Result.OK
    return Result.ERROR if isinstance(error, Exception) else Result.PANIC


def presentable(error: BaseException) -> BaseException:
    """Return ``error`` as the future may carry it.

    Its traceback loses this package's frames, whose locals would keep the task alive in a cycle.
    A StopIteration would hang an asyncio waiter before Python 3.13, which cannot be told of one.
    """
    # No assignment, for an exception may be a frozen dataclass; and not its own method, which may be odd.
    BaseException.with_traceback(error, own_frames_dropped(error.__traceback__))
    if isinstance(error, StopIteration):
        replaced = RuntimeError("task raised StopIteration")
        replaced.__cause__ = error
        return replaced
    return error
