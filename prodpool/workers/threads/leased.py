"""Leased workers: long-lived loops in the backend's threads that take tasks from the pool's queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from contextvars import Context
from functools import partial
from typing import Any

from prodpool.concurrency.interrupts import Unmasked
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.scheduling.worker import Worker
from prodpool.task.outcomes import LossCause, State
from prodpool.task.task import Task
from prodpool.workers.base import Backend, ThreadWorkers

# Seconds after which a busy loop on a shared backend lets its other users have a turn.
MAX_LEASE = 0.05


class LeasedWorkers(ThreadWorkers):
    """Starts loops on a thread backend, as many as the pool asks for."""

    def __init__(
        self,
        *,
        pool: str,
        backend: Backend,
        dispatcher: Dispatcher,
        runner: Runner,
        max_workers: int | None,
        linger: float,
        shared: bool,
        now: Callable[[], float],
        on_lost: Callable[[Task | None, BaseException | None], None],
    ) -> None:
        super().__init__(max_workers)
        self._pool = pool
        self._backend = backend
        self._dispatcher = dispatcher
        self._runner = runner
        # On a shared backend an idle loop gives way as soon as a busy one.
        self._linger = min(linger, MAX_LEASE) if shared else linger
        self._shared = shared
        self._now = now
        self._on_lost = on_lost

    def start(self) -> bool:
        """Start one more loop; False when there are enough.

        Raises:
            RuntimeError: The backend takes no more work; what it said itself.
        """
        worker = Worker(self._pool, self._now)
        try:
            if not self._dispatcher.add_starting(worker):
                return False
            # No callback is added: a signal handler that raises in the midst of that leaves the lock of the
            # future held for ever, and the thread that ends the loop waits for it.
            loop_future = self._submit(self._begin, worker)
            with self._dispatcher.lock:
                if worker.loop_future is None:  # else it has given up its turn by now
                    worker.loop_future = loop_future
        except BaseException:
            # Also what a signal handler raised, when the loop may be coming up after all: if it is there
            # it stays, and if it comes later it finds itself removed.
            self._dispatcher.start_failed(worker)
            raise
        return True

    def _submit(self, fn: Callable[..., None], *args: Any) -> Future[Any]:
        """Submit a loop to the backend, unless that is what this thread is doing already.

        A destructor or a signal handler that submits a task may run in the midst of the backend's own
        ``submit``, which holds a lock that is not reentrant.

        Raises:
            RuntimeError: Likewise, or what the backend said itself.
        """
        if thread_state.submitting:
            raise RuntimeError("this thread is just submitting to the backend")
        try:
            thread_state.submitting = True
            with Unmasked():
                # In an empty context: an agent that carries it into threads would leave the span of the first
                # request in this one for ever.
                loop_future: Future[Any] = Context().run(self._backend.submit, fn, *args)
            return loop_future
        finally:
            thread_state.submitting = False

    def repair(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Notice the loops that the backend dropped before they began, of which there is no event."""
        for worker in list(self._dispatcher.worker_set.workers):
            loop_future = worker.loop_future
            if loop_future is None or not loop_future.done():
                continue
            error = None if loop_future.cancelled() else loop_future.exception()
            if loop_future.cancelled() or error is not None:
                call_soon(partial(self._lost, worker, error))

    def owned_threads_or_processes(self) -> list[threading.Thread]:
        """Return the threads that should have ended when the backend has; none of a shared one."""
        if self._shared:
            return []
        idents = {worker.ident for worker in list(self._dispatcher.worker_set.workers)}
        # A worker that is only just coming up has no ident, and no more has a thread of the application that
        # is just being started: they are not the same, and that one cannot be joined.
        idents.discard(None)
        return [thread for thread in threading.enumerate() if thread.ident in idents]

    def shutdown(self) -> None:
        """Shut the backend down without waiting, unless it is shared."""
        if not self._shared:
            self._backend.shutdown(wait=False)

    def _begin(self, worker: Worker) -> None:
        worker.ident = threading.get_ident()
        self._loop(worker, partial(self._dispatcher.mark_started, worker))

    def _resume(self, worker: Worker, ticket: object) -> None:
        # The stdlib may enqueue a call and then raise for want of a thread; the loop has gone on by
        # itself then, and this ticket is void.
        with self._dispatcher.lock:
            if worker.requeue_ticket is not ticket:
                return
            worker.requeue_ticket = None
        worker.ident = threading.get_ident()
        # Not the task itself: this frame stays for as long as the loop, and would keep it alive.
        self._loop(worker, lambda: worker.task)

    def _loop(self, worker: Worker, first: Callable[[], Task | None]) -> None:
        """Run tasks until dismissed, idle for too long, or another user's turn has come."""
        thread_state.worker = worker
        try:
            while True:
                try:
                    self._count_thread()
                    return self._serve(worker, first())
                except MemoryError as error:
                    first = partial(self._runner.recover, worker, error)
        except BaseException as error:
            self._lost(worker, error)
            raise
        finally:
            thread_state.worker = None

    def _count_thread(self) -> None:
        """Count this thread unless it has run a loop before: an executor's threads are used again."""
        if not thread_state.counted:
            self._dispatcher.count_worker_started()
            thread_state.counted = True

    def _serve(self, worker: Worker, task: Task | None) -> None:
        run, wake = self._runner.run, worker.wake
        lease_ends = self._now() + MAX_LEASE
        while True:
            while task is not None:
                task = run(worker, task)
                if self._shared and task is not None and self._now() >= lease_ends:
                    if self._requeue(worker):
                        return
                    lease_ends = self._now() + MAX_LEASE
            if worker.dismissed:
                return
            linger = self._linger
            if self._shared:
                linger = max(0.0, min(linger, lease_ends - self._now()))
            if not wake.acquire(timeout=linger):
                if self._dispatcher.retire_idle(worker):
                    return
                # Given a task, or dismissed, at the very moment it gave up waiting.
                wake.acquire()
            task = worker.task

    def _requeue(self, worker: Worker) -> bool:
        """Go to the end of the backend's own queue; False when the backend takes nothing any more."""
        ticket = worker.requeue_ticket = object()
        try:
            loop_future = self._submit(self._resume, worker, ticket)
        except BaseException as error:
            with self._dispatcher.lock:
                came_up = worker.requeue_ticket is not ticket
                worker.requeue_ticket = None
            if not isinstance(error, RuntimeError | MemoryError):
                raise
            return came_up
        with self._dispatcher.lock:
            if worker.requeue_ticket is ticket:
                worker.loop_future = loop_future
        return True

    def _lost(self, worker: Worker, error: BaseException | None) -> None:
        """Remove a loop that broke down (``error``), or that the backend dropped."""
        self._count_lost(worker, error)
        held, task = worker.task, self._dispatcher.worker_failed(worker)
        if task is None and held is not None:
            self._runner.settlement.resume(worker, held)
        self._on_lost(task, error)

    def _count_lost(self, worker: Worker, error: BaseException | None) -> None:
        # Once each. What a stop has given up may still end, and a stopped pool cancels what has not begun.
        by_stop = self._dispatcher.state is State.STOPPED and not isinstance(error, BrokenExecutor)
        if worker in self._dispatcher.worker_set.workers and not by_stop:
            self._dispatcher.count_worker_lost(LossCause.EXIT if worker.begun else LossCause.START)
