"""Workers without a thread of their own: the thread that gives one a task runs it, before it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.interrupts import held_here, start_thread
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import Runner, check_stack_depth
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.scheduling.worker import Worker
from prodpool.task.outcomes import State
from prodpool.task.task import Task
from prodpool.workers.base import ThreadWorkers, shut_down

# Frames that the pool itself may need around a task.
RUN_FRAMES = 100


class InlineWorker(Worker):
    """A worker that is whichever thread gives it a task."""

    __slots__ = ()

    def notify_again(self) -> None:
        """Do nothing: `InlineWorkers.repair` sees to it, and knows which thread is about to run the task."""


class InlineWorkers(ThreadWorkers):
    """Runs the tasks of one pool in the threads that submit them.

    What was submitted while the pool was paused runs in the thread that resumes it. A stop, which must not
    wait for a task beyond its deadline, runs what is left in a thread of its own.
    """

    def __init__(
        self,
        *,
        pool: str,
        backend: Any,
        dispatcher: Dispatcher,
        runner: Runner,
        max_workers: int | None,
        own_backend: bool,
        now: Callable[[], float],
    ) -> None:
        super().__init__(max_workers)
        self._pool = pool
        self._backend = backend
        self._dispatcher = dispatcher
        self._runner = runner
        self._own_backend = own_backend
        self._now = now
        # Workers that were given a task and have not begun it, each with the thread that is to run it.
        self._given: dict[InlineWorker, int] = {}
        # Those of them that were there when `repair` looked last.
        self._overdue: set[InlineWorker] = set()
        self._threads: list[threading.Thread] = []
        dispatcher.after_notify = self._after_notify

    def start(self) -> bool:
        """Add one more worker; False when there are enough."""
        worker, dispatcher = InlineWorker(self._pool, self._now), self._dispatcher
        worker.notify = partial(self._give, worker)
        try:
            # In one step: a task that another thread submits must not be queued for a worker to come.
            with dispatcher.lock:
                if dispatcher.state is State.STOPPED or not dispatcher.worker_set.add_starting(worker):
                    return False
                dispatcher.worker_set.mark_started(worker)
                if dispatcher.next_task(worker) is not None:
                    self._give(worker)
        except BaseException:
            dispatcher.start_failed(worker)
            raise
        dispatcher.notify_waiters()
        return True

    def repair(self, call_soon: Callable[[Callable[[], None]], object]) -> None:  # noqa: ARG002
        """Run what was given to a worker whose thread has not come to run it since the last call.

        An exception that a signal handler raised has kept it from that, or the pool's lock that it held.
        """
        given = set(self._given)
        for worker in given & self._overdue:
            self._run_in_own_thread(worker)
        self._overdue = given

    def owned_threads_or_processes(self) -> Sequence[threading.Thread]:
        """Return the threads that were started for a stop; a task's own is its submitter's."""
        return [thread for thread in self._threads if thread.is_alive()]

    def shutdown(self) -> None:
        """Shut the backend down, unless it is shared."""
        if self._own_backend:
            shut_down(self._backend)

    def _give(self, worker: InlineWorker) -> None:
        """Note that this thread is to run the worker's task; the dispatcher's lock may be held."""
        self._given[worker] = threading.get_ident()

    def _after_notify(self) -> None:
        """Run the tasks that this thread has given to workers."""
        if not self._given or held_here(self._dispatcher.lock):
            return
        me = threading.get_ident()
        for worker in [worker for worker, giver in list(self._given.items()) if giver == me]:
            if not self._may_run_here():
                self._run_in_own_thread(worker)
            elif self._given.pop(worker, None) is not None:
                self._run(worker)

    def _may_run_here(self) -> bool:
        """Tell whether this is no thread of the pool's own, and has the stack that settling a task takes."""
        if self._dispatcher.state is not State.OPEN or background_thread().is_current_thread():
            return False
        try:
            check_stack_depth(RUN_FRAMES)
        except RecursionError:
            return False
        return True

    def _run_in_own_thread(self, worker: InlineWorker) -> None:
        name = f"prodpool-inline-{self._pool}"
        thread = threading.Thread(target=self._run_given, args=(worker,), name=name, daemon=True)
        # One atomic step each: the watchdog and a stop may both be here.
        self._threads.append(thread)
        try:
            start_thread(thread)
        except RuntimeError:  # no thread, or hardly any stack, is left
            self._threads.remove(thread)  # `repair` tries again

    def _run_given(self, worker: InlineWorker) -> None:
        if self._given.pop(worker, None) is not None:
            self._run(worker)

    def _run(self, worker: InlineWorker) -> None:
        """Run the worker's task, and those that wait in the queue when that has ended.

        Raises:
            BaseException: KeyboardInterrupt of a task, or what a signal handler raised in a step of the pool.
        """
        outer, interrupt = thread_state.worker, None
        # Nothing is set back when it ends: by then another thread may have given it the next task.
        worker.replaced, worker.ident = outer, threading.get_ident()
        task = worker.task
        thread_state.worker = worker
        try:
            while task is not None and not worker.dismissed:
                task, interrupted = self._run_one(worker, task)
                interrupt = interrupt or interrupted
        finally:
            thread_state.worker = outer
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # this frame is in its traceback

    def _run_one(self, worker: InlineWorker, task: Task) -> tuple[Task | None, BaseException | None]:
        """Run one task; return the worker's next one, and what is meant for this thread."""
        future = task.future
        try:
            following = self._runner.run(worker, task)
        except Exception as error:  # noqa: BLE001  # the pool's own, such as a lack of memory or of stack
            return self._runner.recover(worker, error), None
        except BaseException as error:  # noqa: BLE001  # a signal handler's
            return self._runner.recover(worker, error), error
        finally:
            del task  # this frame is in the traceback of what it raised
        raised = future._exception  # noqa: SLF001  # `exception()` may wait: a stop settles it as well
        return following, raised if isinstance(raised, KeyboardInterrupt) else None
