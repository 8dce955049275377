"""What a `RecordingPool` and its views submit to: it notes each call, and runs it in the calling thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import copy_context
from typing import Any

from prodpool.concurrency.event_loop import blocks_loop, on_event_loop
from prodpool.errors import PoolClosedError, TaskExpiredError
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import check_stack_depth
from prodpool.submission.submitter import Submitter
from prodpool.task.coroutines import async_refusal, is_async
from prodpool.task.future import CANCELLED, FINISHED, PENDING, RUNNING, PoolFuture
from prodpool.task.outcomes import Reason
from prodpool.task.task import Task, TaskOptions, callable_name
from prodpool.testing.planned_errors import FAILURES, QUEUE_CAPACITY, REFUSALS, PlannedErrors
from prodpool.testing.recording_worker import RecordingWorker, call
from prodpool.testing.submission import Submission
from prodpool.text import shown


class RecordingSubmitter(Submitter):
    """Notes and runs the calls of one `RecordingPool`; the owner of their futures.

    It has no engine, and so leaves out the constructor of its base class, which is what a view is typed by.
    """

    def __init__(self, pool: str, now: Callable[[], float], *, hold: bool) -> None:
        self.pool = pool
        self.lock = threading.RLock()  # guards the states of futures, and the fields below
        self.submissions: list[Submission] = []
        self.refusals = PlannedErrors(REFUSALS)
        self.failures = PlannedErrors(FAILURES)
        self.closed = False
        self.completed = 0
        self._now = now
        self._hold = hold
        self._held: deque[Task] = deque()
        # The error that a task is to end with instead of being run.
        self._planned: dict[Task, BaseException] = {}
        self._workers: set[RecordingWorker] = set()

    # What a pool, its views and `map` ask of a submitter.

    def submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Note a call, and run it unless it is to be held."""
        return self._submit("submit", options, fn, args, kwargs)

    def refusal(self) -> PoolClosedError:
        """Return what is told of a task that the stop has dropped."""
        return PoolClosedError(pool=self.pool)

    def submit_wait(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Do the same where it may block."""
        if on_event_loop():
            raise RuntimeError(blocks_loop(self.pool))
        return self._submit("submit_wait", options, fn, args, kwargs)

    async def submit_async(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Do the same in a coroutine."""
        return self._submit("submit_async", options, fn, args, kwargs)

    def try_submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> PoolFuture[Any] | None:
        """Do the same for `map`."""
        return self._submit("map", options, fn, args, {})

    def slot_count(self) -> int:
        """Return how many calls of a `map` are made ahead."""
        return 1 + QUEUE_CAPACITY

    def carries(self) -> bool:
        """Return False: calls are made in this process."""
        return False

    # What the pool asks.

    def held(self) -> int:
        """Count the tasks that are held."""
        with self.lock:
            return sum(task.future._state == PENDING for task in self._held)  # noqa: SLF001

    def run_next(self) -> PoolFuture[Any] | None:
        """Run the task that has been held for longest and return its future; None if there is none."""
        with self.lock:
            # The others were cancelled, or waited for by a task.
            pending = [task for task in self._held if task.future._state == PENDING]  # noqa: SLF001
            self._held = deque(pending[1:])
        if not pending:
            return None
        task = pending[0]
        self._run(task)
        return task.future

    def drop_held(self, reason: Reason) -> int:
        """Drop the tasks that are held; return how many those were."""
        with self.lock:
            held = [task for task in self._held if self._drop(task, reason)]
            self._held.clear()
        for task in held:
            task.future.resolve(CANCELLED, None, None)
        return len(held)

    def close_from_inside(self, *, drop: bool) -> None:
        """Refuse new calls; what is held follows on the task that the calling thread runs, or is dropped."""
        self.closed = True
        if drop:
            self.drop_held(Reason.SHUTDOWN)
        worker = self.worker_here()
        with self.lock:
            if worker is not None:
                worker.submitted.extend(self._held)
                self._held.clear()

    def running(self) -> tuple[str, ...]:
        """Return the names of the tasks that run, in whichever threads."""
        return tuple(task.name for worker in list(self._workers) for task in worker.tasks())

    def worker_here(self) -> RecordingWorker | None:
        """Return what the calling thread runs tasks of this pool as; None if it runs none."""
        worker = thread_state.worker
        while worker is not None:
            if isinstance(worker, RecordingWorker) and worker in self._workers:
                return worker
            worker = worker.replaced
        return None

    # What futures ask of their owner.

    def cancel(self, task: Task) -> bool:
        """Take a task out that is held; tell one that runs to end."""
        with self.lock:
            dropped = self._drop(task, Reason.CANCELLED)
        if dropped:
            task.future.resolve(CANCELLED, None, None)
        else:
            task.request_cancel()
        return dropped

    def run_inline(self, task: Task) -> None:
        """Run a task that another one waits for, inside that."""
        worker = self.worker_here()
        if worker is None:
            return
        worker.inline_tasks.append(task)
        try:
            self._run_one(task)
        finally:
            worker.inline_tasks.pop()

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Log a done-callback that raised."""
        logging.getLogger("prodpool").error(
            "done-callback %s of pool %r raised", callable_name(fn), self.pool, exc_info=error
        )

    # Steps.

    def _submit(
        self,
        method: str,
        options: TaskOptions,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> PoolFuture[Any]:
        task = self._make_task(options, fn, args, kwargs)
        with self.lock:
            refusal = self.refusal() if self.closed else self.refusals.next(self.pool, task)
            self.submissions.append(
                Submission(
                    method=method,
                    fn=fn,
                    args=args,
                    kwargs=kwargs,
                    options=options,
                    future=None if refusal is not None else task.future,
                    refusal=refusal,
                )
            )
            if refusal is not None:
                task.future._task = None  # noqa: SLF001  # they would refer to each other
                raise refusal
            failure = self.failures.next(self.pool, task)
            if failure is not None:
                self._planned[task] = failure
            if self._hold:
                self._held.append(task)
                return task.future
        worker = self.worker_here()
        if worker is not None:
            # As over one worker, which is busy: a chain of tasks must not become a deep recursion.
            worker.submitted.append(task)
        else:
            self._run(task)
        return task.future

    def _make_task(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Task:
        if not callable(fn):
            raise TypeError(f"fn={shown(fn)} cannot be called: pass the function and then its arguments")
        if is_async(fn):
            raise async_refusal(fn)
        # With hardly any stack left a task could be noted and not settled.
        check_stack_depth()
        task = Task(fn, args, kwargs, copy_context(), self._now(), options)
        task.future = PoolFuture(self, task)
        if options.deadline is not None:
            task.expires_at = task.admitted_at + options.deadline
        return task

    def _run(self, first: Task) -> None:
        """Run a task, and then those that it has submitted.

        Raises:
            KeyboardInterrupt: A task raised it, or Ctrl-C was pressed: it is meant for this thread.
        """
        worker = RecordingWorker(self.pool, self._now)
        task: Task | None = first
        interrupt: BaseException | None = None
        self._workers.add(worker)
        thread_state.worker = worker
        try:
            while task is not None:
                worker.task = task
                interrupt = _meant_for_thread(self._run_one(task)) or interrupt
                task = worker.submitted.popleft() if worker.submitted else None
        finally:
            thread_state.worker = worker.replaced
            self._workers.discard(worker)
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # this frame is in its traceback

    def _run_one(self, task: Task) -> BaseException | None:
        """Run a task and settle it, unless that was done; return what it raised."""
        began = self._now()
        with self.lock:
            if task.future._state != PENDING or task.dropped is not None:  # noqa: SLF001
                return None
            expired = task.expires_at is not None and began >= task.expires_at
            failure = self._planned.pop(task, None)
            if not expired and failure is None:
                task.future._state = RUNNING  # noqa: SLF001
                task.began_at = began
                self.completed += 1
        if expired:
            deadline, dwell = task.options.deadline or 0.0, began - task.admitted_at
            failure = TaskExpiredError(pool=self.pool, task=task.name, deadline=deadline, dwell=dwell)
        value, error = (None, failure) if failure is not None else call(task)
        task.future.resolve(FINISHED, value, error)
        return error

    def _drop(self, task: Task, reason: Reason) -> bool:
        """Mark a task as one that will not run; False if it has begun. The lock is held."""
        if task.future._state != PENDING or task.dropped is not None:  # noqa: SLF001
            return False
        task.dropped = reason
        self._planned.pop(task, None)
        return True


def _meant_for_thread(error: BaseException | None) -> BaseException | None:
    return error if isinstance(error, KeyboardInterrupt) else None
