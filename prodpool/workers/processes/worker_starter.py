"""Starting the worker processes of one pool, one after the other, until it is clear that none comes up."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from prodpool.concurrency import fork_hooks
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.text import shown
from prodpool.workers.base import kill
from prodpool.workers.in_worker.frames import Kind
from prodpool.workers.processes.connection import WorkerConnection
from prodpool.workers.processes.loss_reports import LossReports
from prodpool.workers.processes.process_template import DaemonicProcessError, ProcessTemplate
from prodpool.workers.processes.remote_worker import RemoteWorker, how_it_ended
from prodpool.workers.processes.restart_backoff import RestartBackoff


class WorkerStarter:
    """Starts processes and sees them end. Used by the thread of each worker, for that one, save for `kill`.

    Args:
        pool: The pool's name.
        template: What a worker process is made of.
        now: The pool's clock.
        reports: Counts the processes that were started, and those that did not come up.
        any_is_up: Tells whether there are other processes: then the system may just have no more to give.
        on_broken: Told that no process comes up any more, and why.
    """

    def __init__(
        self,
        *,
        pool: str,
        template: ProcessTemplate,
        now: Callable[[], float],
        reports: LossReports,
        any_is_up: Callable[[], bool],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._template = template
        self._reports = reports
        self._any_is_up = any_is_up
        self._on_broken = on_broken
        self._backoff = RestartBackoff(now)
        self._killed = False
        # Set when there are to be no more processes.
        self.closed = threading.Event()
        # Why no process comes up any more, once that is so.
        self.broken: BaseException | None = None
        # Whichever have not ended: plain set operations only, each of them atomic.
        self.processes: set[Any] = set()

    def kill(self) -> None:
        """Kill the processes, and those that are just being started; from any thread."""
        self._killed = True
        for process in list(self.processes):
            kill(process)

    def start(self, worker: RemoteWorker) -> bool:
        """Start a process and wait until it is ready; False if there is to be none any more."""
        while not self.closed.is_set():
            delay = self._backoff.delay()
            if delay:
                worker.forked.set()  # it takes too long to be waited for
            if self.closed.wait(delay):
                return False
            before = worker.process
            try:
                self._connect(worker)
            except Exception as error:  # noqa: BLE001  # the system's, or the application's initializer's
                self.release(worker)
                if not (self._killed or self.closed.is_set()):
                    started = None if worker.process is before else worker.process
                    self._reports.not_ready(started, error)
                may_come_up = self._backoff.failed() and not isinstance(error, DaemonicProcessError)
                if not may_come_up and not self._any_is_up() and not self.closed.is_set():
                    self.broken = _without_frames(error)
                    self._on_broken(self.broken)
                    return False
            else:
                self._backoff.succeeded()
                worker.ready = True
                return True
        return False

    def renew(self, worker: RemoteWorker) -> bool:
        """Start another process for a worker whose own has run as many tasks as it may."""
        self.release(worker)
        return self.start(worker)

    def release(self, worker: RemoteWorker) -> None:
        """Disconnect a process that has nothing to do any more, and wait for its end."""
        worker.disconnect()
        if worker.process is not None:
            worker.join_or_kill()
            self.processes.discard(worker.process)

    def _connect(self, worker: RemoteWorker) -> None:
        """Start a process.

        Raises:
            Exception: It does not come up.
        """
        try:
            connection, process = worker.connection, worker.process = self._start_process()
        finally:
            worker.forked.set()
        worker.calls = worker.answered = 0
        if self._killed:  # meanwhile, when it was not there to be seen
            kill(process)
        try:
            message = connection.receive()
        except (EOFError, OSError) as error:
            detail = how_it_ended(process.pid, worker.join_or_kill()).removeprefix("its ")
            raise BrokenProcessPool(f"{detail} before it was ready") from error
        assert message is not None  # noqa: S101  # it was waited for
        worker.dumps_stacks = message.number == 1
        if message.kind == Kind.START_FAILED:
            packed, stack = pickle.loads(message.body)  # noqa: S301  # from our own worker
            failure: BaseException = pickle.loads(packed)  # noqa: S301
            BaseException.__setattr__(failure, "__cause__", RemoteTraceback(stack))
            raise BrokenProcessPool(f"the initializer has failed: {shown(failure)}") from failure

    def _start_process(self) -> tuple[WorkerConnection, Any]:
        with _one_at_a_time:
            # In here: another thread that forks would take descriptors along that are no sockets yet.
            connection = WorkerConnection()
            try:
                process = self._template.start(self._pool, connection)
            except BaseException:
                connection.close()
                raise
            self.processes.add(process)
        self._reports.started()
        return connection, process


def _without_frames(error: BaseException) -> BaseException:
    """Return ``error`` without what its frames hold, a process with its descriptors: it is kept for good."""
    link: BaseException | None = error
    while link is not None:
        BaseException.with_traceback(link, None)
        link = link.__cause__ or link.__context__
    return error


# multiprocessing's own records are not made for several threads that start processes.
_one_at_a_time = threading.RLock()


def _after_fork() -> None:
    global _one_at_a_time  # noqa: PLW0603
    _one_at_a_time = threading.RLock()


fork_hooks.register(_after_fork)
