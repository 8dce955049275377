"""Sends tasks to a backend and settles their results, one by one.

The thread that gives a worker a task sends that task; the loop thread settles what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from typing import Any

from prodpool.concurrency.loop_thread import LoopThread
from prodpool.errors import UnpicklableError
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import Result, State
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.text import shown
from prodpool.workers.base import Capabilities, NotTakenError
from prodpool.workers.handoff.backend_worker import BackendWorker
from prodpool.workers.handoff.rebuildable_backend import RebuildableBackend
from prodpool.workers.handoff.recovery import Recovery, worker_lost
from prodpool.workers.handoff.transport import Transport
from prodpool.workers.in_worker.call import CallResult


class NoFutureError(TypeError):
    """A backend's ``submit`` returned something else."""

    def __init__(self, backend: Any, returned: Any) -> None:
        super().__init__(
            f"backend={shown(backend)} returned {shown(returned)} from submit, which has no "
            "add_done_callback: wrap an executor whose submit returns a future as concurrent.futures does"
        )


class Transfers:
    """Hands the tasks of one pool over and settles them.

    Args:
        pool: The pool's name.
        backends: The backend in use.
        abilities: What it can do.
        context_vars: Names of the context variables that travel too.
        dispatcher: Gives workers their tasks.
        runner: What settles a task.
        log: Where a new backend is announced.
        telemetry_errors: Counts and reports what goes wrong in the loop thread.
        now: The pool's clock.
        on_sent: Called after each task that a backend has taken.
        on_ran: Called in the loop thread with the seconds that a task ran.
        on_broken: Told that nothing can be done about the backend any more.
    """

    def __init__(
        self,
        pool: str,
        *,
        backends: RebuildableBackend,
        abilities: Capabilities,
        context_vars: Sequence[str],
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        now: Callable[[], float],
        on_sent: Callable[[], None],
        on_ran: Callable[[float], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._backends = backends
        self._abilities = abilities
        self._transport = Transport(pool, abilities, context_vars=context_vars, runner=runner, now=now)
        self._dispatcher = dispatcher
        self._runner = runner
        self._loop_thread = LoopThread(
            pool,
            on_start=self._begin_to_settle,
            due_in=backends.due_in,
            on_due=self._on_due,
            on_error=lambda error: telemetry_errors.report("internal", error),
        )
        self._now = now
        self._on_sent = on_sent
        self._on_ran = on_ran
        self._recovery = Recovery(
            backends,
            log=log,
            workers=dispatcher.workers,
            stopped=lambda: dispatcher.state is State.STOPPED,
            send=self._send_all,
            fail=self._fail,
            count_lost=dispatcher.count_worker_lost,
            on_broken=on_broken,
        )

    def _begin_to_settle(self) -> None:
        """Mark this thread, so that it is refused what would wait for the tasks that it settles."""
        thread_state.settles_for = self._dispatcher.worker_set.workers

    def start(self) -> None:
        """Start the loop thread, if it does not run.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        self._loop_thread.start()

    def close(self) -> None:
        """End the loop thread; nothing more comes back."""
        self._loop_thread.close()

    def send_first(self, worker: BackendWorker, task: Task | None) -> None:
        """Send the task that a worker was given, if any, and those that it is given after that."""
        if self._dispatcher.state is State.OPEN:
            self._send_all(worker, task)
        else:
            # A stop gets on, however long the application's own pickling takes.
            self._loop_thread.call_soon(partial(self._send_all, worker, task))

    def _fail(self, worker: BackendWorker, task: Task, error: BaseException | None) -> None:
        self._send_all(worker, self._runner.fail_unstarted(worker, task, error))

    def shutdown(self) -> None:
        """Fail the tasks that were not sent."""
        self._loop_thread.call_soon(self._recovery.fail_waiting_if_stopped)

    # Sending, in the thread that gave the worker its task.

    def _send_all(self, worker: BackendWorker, task: Task | None) -> None:
        while task is not None:
            given = task
            try:
                task = self._send_if_allowed(worker, given)
            except MemoryError as error:  # before it was sent: `_send` takes care of the rest
                task = self._runner.settle_anyway(worker, given, error)

    def _send_if_allowed(self, worker: BackendWorker, task: Task) -> Task | None:
        """Send ``task``; returns the worker's next one if this one is settled already."""
        if self._runner.has_expired(task, self._now()):
            return self._after_local_settle(task, self._runner.expire(worker, task))
        if self._recovery.must_wait(task):
            self._loop_thread.call_soon(partial(self._recovery.requeue, worker, task))
            return None
        worker.sent_at = self._now()
        generation, backend = self._backends.current
        try:
            call = self._transport.pack(task)
        except BaseException as error:  # noqa: BLE001  # a __reduce__ may raise anything
            return self._fail_unsent(worker, task, error)
        try:
            self._send(worker, task, generation, backend, call)
        except BaseException as error:  # noqa: BLE001
            return self._on_send_error(worker, task, generation, error)
        return None

    def _send(
        self, worker: BackendWorker, task: Task, generation: int, backend: Any, call: tuple[Any, ...]
    ) -> None:
        """Hand a packed call over to the backend of ``generation``.

        Raises:
            UnpicklableError: The backend cannot carry the call; the message says what in it.
            NoFutureError: Its ``submit`` returns no future.
            BaseException: What else its ``submit`` raises.
        """
        worker.mark_sent(self._now())
        future = self._transport.send(backend, worker, task, call)
        self._on_sent()
        try:
            future.add_done_callback(
                lambda future: self._loop_thread.call_soon(
                    partial(self._on_returned, worker, task, generation, future)
                )
            )
        except AttributeError:
            raise NoFutureError(backend, future) from None

    def _on_send_error(
        self, worker: BackendWorker, task: Task, generation: int, error: BaseException
    ) -> Task | None:
        """Settle a task that the backend did not take, if the fault is not the backend's."""
        if isinstance(error, UnpicklableError | NoFutureError | MemoryError):
            return self._fail_unsent(worker, task, error)
        if self._is_out_of_resources(error):
            # No process or descriptor to be had for this one, which may be queued there all the same.
            self._loop_thread.call_soon(partial(self._on_lost, worker, task, generation, error))
            return None
        worker.mark_returned()
        self._loop_thread.call_soon(partial(self._recovery.on_refused, worker, task, generation, error))
        return None

    def _is_out_of_resources(self, error: BaseException) -> bool:
        """Tell whether ``error`` is that of a process pool which gets nothing more from the system."""
        return isinstance(error, OSError) and self._abilities.processes is not None

    def _fail_unsent(self, worker: BackendWorker, task: Task, error: BaseException) -> Task | None:
        """Settle a task that cannot be handed over."""
        worker.mark_returned()
        now = self._now()
        return self._after_local_settle(task, self._runner.settle(worker, task, now, now, None, error))

    def _after_local_settle(self, task: Task, following: Task | None) -> Task | None:
        """Note that a task was settled without having been sent; return what its worker has to do next."""
        if self._recovery.is_isolated(task):
            self._loop_thread.call_soon(partial(self._recovery.on_settled, task))
        return following

    # Results, in the loop thread.

    def _on_returned(self, worker: BackendWorker, task: Task, generation: int, future: Future[Any]) -> None:
        try:
            outcome = future.result(0)
        except NotTakenError as late:
            self._send_all(worker, self._on_send_error(worker, task, generation, late.error))
        except BaseException as error:  # noqa: BLE001  # whatever the backend found to raise instead
            self._on_lost(worker, task, generation, error)
        else:
            self._on_result(worker, task, generation, outcome)

    def _on_result(self, worker: BackendWorker, task: Task, generation: int, outcome: CallResult) -> None:
        """Settle a task by its outcome."""
        self._backends.succeeded(generation)
        try:
            self._settle(worker, task, outcome)
        except MemoryError as error:
            self._send_all(worker, self._runner.settle_anyway(worker, task, error))
        # Not before: the worker's next task must not run beside the next isolated one.
        self._recovery.on_settled(task)

    def _settle(self, worker: BackendWorker, task: Task, outcome: CallResult) -> None:
        if task.counted or task.dropped is not None:
            return  # there was no memory to see that it had been sent
        worker.mark_returned()
        if outcome.expired:
            self._send_all(worker, self._runner.expire(worker, task))
            return
        started, ended, value, failure = self._transport.read(worker, task, outcome)
        self._on_ran(ended - started)
        self._send_all(worker, self._runner.settle(worker, task, started, ended, value, failure))

    def _on_lost(self, worker: BackendWorker, task: Task, generation: int, error: BaseException) -> None:
        """Decide about a task that has no outcome, because of ``error``."""
        worker.mark_returned()
        if isinstance(error, BrokenExecutor | CancelledError):
            kept = self._recovery.on_backend_broken(worker, task, generation, error)
        elif isinstance(error, self._abilities.worker_lost_errors) or self._is_out_of_resources(error):
            self._recovery.report_lost(task, error, self._abilities.lost_worker(error))
            kept = self._recovery.isolate(worker, task)
        else:  # the backend's own failure with this one task
            kept = False
            self._send_all(
                worker, self._runner.settle(worker, task, worker.sent_at, self._now(), None, error)
            )
            self._recovery.on_settled(task)
            return
        if not kept:
            lost = worker_lost(self._pool, task, error)
            following = self._runner.settle(
                worker, task, worker.sent_at, self._now(), None, lost, Result.PANIC
            )
            self._send_all(worker, following)
        self._recovery.on_settled(task)  # not before, likewise

    def call_soon(self, call: Callable[[], object]) -> None:
        """Have a call made in the loop thread."""
        self._loop_thread.call_soon(call)

    def wake(self) -> None:
        """Have the loop thread look for calls, in case the thread that posted one could not wake it."""
        self._loop_thread.wake()

    def _on_due(self) -> None:
        """Build the next backend."""
        if self._backends.due_in() == 0.0:
            self._recovery.rebuild()
