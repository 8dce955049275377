"""The worker processes of one pool. Each has a thread here, which sends it calls and settles their outcomes.

A thread to each, so that nothing one of them waits for holds up another: a large call, the application's own
pickling, a done-callback. Calls are sent ahead of the one that runs while tasks are short, and withdrawn as
soon as that one turns out to be long. So each process is known to have begun exactly one of its calls, and
its death loses no other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from prodpool.concurrency.interrupts import in_main_thread, start_thread
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import Reason
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.workers.base import Joinable, shut_down
from prodpool.workers.processes.call_sender import CallSender
from prodpool.workers.processes.loss_reports import LossReports
from prodpool.workers.processes.process_template import ProcessTemplate
from prodpool.workers.processes.remote_worker import RemoteWorker, how_it_ended
from prodpool.workers.processes.timeouts import TimeoutEnforcer
from prodpool.workers.processes.worker_losses import WorkerLosses
from prodpool.workers.processes.worker_starter import WorkerStarter

# Seconds after which something is tried again for which there was no memory.
RETRY_AFTER = 0.05
# Seconds that the main thread waits for a process to be forked, which takes milliseconds.
FORK_TIMEOUT = 2.0


class ProcessWorkers:
    """Starts, feeds and replaces the worker processes of one pool.

    Args:
        pool: The pool's name.
        backend: The wrapped executor, which is shut down with the pool.
        template: What a worker process is made of.
        prefetch: Tasks that are sent ahead in all; None for as many as are done soon.
        context_vars: Names of the context variables that travel with each task.
        dispatcher: Who gives workers their tasks.
        runner: What settles a task.
        log: Where it is said that a process was replaced.
        telemetry_errors: Counts and reports what goes wrong here.
        now: The pool's clock.
        on_broken: Told that no process comes up any more, and why.
        start_loops: Starts so many more workers, or as many as there can be.
    """

    # Long, since it does nothing but put the parts together.
    def __init__(
        self,
        *,
        pool: str,
        backend: Any,
        template: ProcessTemplate,
        prefetch: int | None,
        context_vars: Sequence[str],
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        now: Callable[[], float],
        on_broken: Callable[[BaseException], None],
        start_loops: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._backend = backend
        self._template = template
        self._dispatcher = dispatcher
        self._runner = runner
        self._log = log
        self._telemetry_errors = telemetry_errors
        self._now = now
        reports = LossReports(dispatcher, log)
        self._starter = WorkerStarter(
            pool=pool,
            template=template,
            now=now,
            reports=reports,
            any_is_up=self._any_is_up,
            on_broken=on_broken,
        )
        self._limits = TimeoutEnforcer(pool)
        self._sender = CallSender(
            pool=pool,
            template=template,
            prefetch=prefetch,
            context_vars=context_vars,
            dispatcher=dispatcher,
            runner=runner,
            limits=self._limits,
            now=now,
            renew=self._starter.renew,
            start_loops=start_loops,
        )
        self._losses = WorkerLosses(
            pool, dispatcher=dispatcher, runner=runner, limits=self._limits, reports=reports, now=now
        )
        self._replaced = 0
        # Whichever have not ended: plain set operations only, each of them atomic.
        self._threads: set[threading.Thread] = set()

    def start(self) -> bool:
        """Add one more worker; False when there are enough.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        worker = RemoteWorker(self._pool, self._now)
        try:
            if not self._dispatcher.add_starting(worker):
                return False
            name = f"prodpool-worker-{self._pool}"
            thread = threading.Thread(target=self._run, args=(worker,), name=name, daemon=True)
            self._threads.add(thread)
            try:
                start_thread(thread)
            except Exception:
                self._threads.discard(thread)
                raise
        except BaseException:
            self._dispatcher.start_failed(worker)
            raise
        if self._template.forks and in_main_thread():
            # A process that is forked must not find locks taken which the main thread takes after this.
            worker.forked.wait(FORK_TIMEOUT)
        with suppress(RuntimeError):  # without a thread for it: the first task with a limit tries again
            self._limits.start()
        return True

    def prepare_resize(self, workers: int) -> int:  # noqa: ARG002
        """Return 0: there can be as many as are wanted, and what is sent ahead can be withdrawn."""
        return 0

    def after_resize(self) -> None:
        """Nothing was held back."""

    def refresh(self) -> None:
        """Nothing to look for: what each process runs is known."""

    def repair(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Notice the processes that ended unseen, and the calls that wait behind a callback."""
        for worker in self._workers():
            # Not in this thread: it may be the main one, in which signal handlers run.
            if worker.ahead and worker.answered == worker.answered_before:
                call_soon(partial(self._sender.requeue_ahead, worker))
            worker.answered_before = worker.answered
            process, connection = worker.process, worker.connection
            if process is None or connection is None or not worker.begun or process.is_alive():
                continue
            if self._dispatcher.retire_idle(worker):
                worker.lost = worker.dismissed = True
                worker.wake.release()
            elif worker.sent:
                # A process that its task has started may hold the connection open. What was sent can be read.
                call_soon(connection.shut_down)

    def owned_threads_or_processes(self) -> list[Joinable]:
        """Return the processes and threads, which have ended when the pool has."""
        limits = self._limits.thread()
        # Threads first: each has seen its process end, which a join may not (`RemoteWorker.join_or_kill`).
        return [*self._threads, *self._starter.processes, *([] if limits is None else [limits])]

    def can_kill(self) -> bool:
        """Return True: its workers are processes of this host."""
        return True

    def kill(self) -> None:
        """Kill the processes, and those that are just being started."""
        self._starter.kill()

    def shutdown(self) -> None:
        """Start no more processes; those that are idle end."""
        self.close()
        with self._telemetry_errors.guard("internal"):
            shut_down(self._backend)

    def rebuilds(self) -> int:
        """Return how many processes were started in place of others that were lost."""
        return self._replaced

    def close(self) -> None:
        """Release everything; no task is left."""
        self._starter.closed.set()
        self._limits.close()

    def _workers(self) -> list[RemoteWorker]:
        return [each for each in list(self._dispatcher.worker_set.workers) if isinstance(each, RemoteWorker)]

    def _any_is_up(self) -> bool:
        """Tell whether there are other processes: then the system may just have no more to give."""
        return any(each.ready for each in self._workers())

    # The thread of one worker.

    def _run(self, worker: RemoteWorker | None) -> None:
        thread_state.settles_for = self._dispatcher.worker_set.workers
        try:
            while worker is not None:
                worker = self._replacement(worker) if self._run_worker_process(worker) else None
        except BaseException as error:  # noqa: BLE001  # a fault of ours; the watchdog starts another
            self._telemetry_errors.report("internal", error)
        finally:
            self._threads.discard(threading.current_thread())

    def _run_worker_process(self, worker: RemoteWorker) -> bool:
        """Start a process and have it run tasks; True if it is to be replaced."""
        try:
            if not self._starter.start(worker):
                worker.forked.set()
                self._dispatcher.start_failed(worker)
                return False
            # Not the task itself: this frame stays for as long as the process, and would keep it alive.
            first: Callable[[], Task | None] = partial(self._dispatcher.mark_started, worker)
            while True:
                try:
                    self._serve(worker, first)
                except MemoryError as error:
                    first = partial(self._after_failed_allocation, worker, error)
                else:
                    if worker.lost:
                        self._settle_lost(worker)
                    return worker.lost
        except BaseException as error:  # noqa: BLE001  # whatever it is, the process is not to be trusted
            if not isinstance(error, EOFError | OSError):
                worker.distrusted = True
                self._telemetry_errors.report("internal", error)
            self._settle_lost(worker)
            return True
        finally:
            self._starter.release(worker)

    def _after_failed_allocation(self, worker: RemoteWorker, error: MemoryError) -> Task | None:
        """Go on where it is certain what was sent."""
        if worker.sent or worker.ahead:
            worker.distrusted = True
            raise EOFError from error  # it is not: the process goes, and what it runs
        return self._runner.recover(worker, error)

    def _settle_lost(self, worker: RemoteWorker) -> None:
        while True:
            try:
                self._losses.settle(worker)
            except MemoryError as error:
                # No other thread would settle its task, or start another in its place.
                self._telemetry_errors.report("internal", error)
                self._starter.closed.wait(RETRY_AFTER)
            else:
                break
        if self._starter.broken is not None and not self._any_is_up():
            # What it had was put back after the queue was emptied, and no worker is left to run it.
            for task in self._dispatcher.drop_queued(Reason.SHUTDOWN):
                self._runner.settlement.dropped(task, lost=self._starter.broken)

    def _replacement(self, lost: RemoteWorker) -> RemoteWorker | None:
        """Return the record of the process that takes the place of a lost one, if there is to be any."""
        worker = RemoteWorker(self._pool, self._now)
        if self._starter.closed.is_set() or not self._dispatcher.add_starting(worker):
            return None
        if not lost.timed_out:  # else the pool itself has killed it
            self._replaced += 1
            died = how_it_ended(lost.process.pid, lost.process.exitcode).removeprefix("its worker ")
            self._log.warning("pool.backend_rebuilt", rebuilds=self._replaced, died=died)
        return worker

    def _serve(self, worker: RemoteWorker, first: Callable[[], Task | None]) -> None:
        """Have the process run tasks until the worker is dismissed.

        Raises:
            EOFError, OSError: The process has gone.
        """
        task = first()
        while True:
            while task is not None:
                task = self._sender.send_and_settle(worker, task)
            if worker.dismissed:
                return
            linger = self._template.linger
            if not worker.wake.acquire(timeout=-1 if linger is None else linger):
                if self._dispatcher.retire_idle(worker):
                    return
                worker.wake.acquire()  # given a task at the very moment it gave up waiting
            task = worker.task
