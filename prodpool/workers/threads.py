"""Leased workers: long-lived loops in the backend's threads that take tasks from the pool's queue."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from prodpool.current import here
from prodpool.dispatch import Dispatcher
from prodpool.execution import Runner
from prodpool.task import Task
from prodpool.worker import Worker
from prodpool.workers.base import Backend, too_many

# Seconds after which a busy loop on a shared backend lets whoever else uses it have a turn.
TURN = 0.05


class LeasedWorkers:
    """Starts loops on a thread backend, as many as the pool asks for."""

    def __init__(
        self,
        *,
        pool: str,
        backend: Backend,
        dispatcher: Dispatcher,
        runner: Runner,
        most: int | None,
        linger: float,
        shared: bool,
        now: Callable[[], float],
        on_lost: Callable[[Task | None, BaseException | None], None],
    ) -> None:
        self._pool = pool
        self._backend = backend
        self._dispatcher = dispatcher
        self._runner = runner
        self._most = most
        # On a shared backend an idle loop gives way as soon as a busy one.
        self._linger = min(linger, TURN) if shared else linger
        self._shared = shared
        self._now = now
        self._on_lost = on_lost

    def start(self) -> bool:
        """Start one more loop; False when there are enough.

        Raises:
            RuntimeError: The backend takes no more work; what it said itself.
        """
        worker = Worker(self._pool, self._now)
        if not self._dispatcher.reserve(worker):
            return False
        try:
            lease = worker.lease = self._backend.submit(self._begin, worker)
        except BaseException:
            self._dispatcher.lose(worker, began=False)
            raise
        lease.add_done_callback(lambda lease: self._lease_ended(worker, lease))
        return True

    def fit(self, workers: int) -> int:
        """Return 0: nothing waits in the backend.

        Raises:
            ValueError: It has fewer threads.
        """
        if self._most is not None and workers > self._most:
            raise too_many(workers, self._most)
        return 0

    def resized(self) -> None:
        """Nothing was held back."""

    def look(self) -> None:
        """Nothing to look for: these workers say themselves what they do."""

    def holding(self) -> list[threading.Thread]:
        """Return the threads that should have ended when the backend has; none of a shared one."""
        if self._shared:
            return []
        idents = {worker.ident for worker in list(self._dispatcher.roster.workers)}
        return [thread for thread in threading.enumerate() if thread.ident in idents]

    def can_kill(self) -> bool:
        """Return False: a thread cannot be killed."""
        return False

    def kill(self) -> None:
        """Do nothing."""

    def shutdown(self) -> None:
        """Have the backend take no more work, unless it is shared, and do not wait for it."""
        if not self._shared:
            self._backend.shutdown(wait=False)

    def rebuilds(self) -> int:
        """Return 0: threads do not break."""
        return 0

    def close(self) -> None:
        """Nothing is left to close when the last worker is back."""

    def _begin(self, worker: Worker) -> None:
        worker.ident = threading.get_ident()
        self._loop(worker, self._dispatcher.begin(worker))

    def _resume(self, worker: Worker, task: Task, turn: object) -> None:
        # The stdlib may enqueue a call and then raise for want of a thread; the loop has gone on by
        # itself then, and this ticket is void.
        with self._dispatcher.lock:
            if worker.turn is not turn:
                return
            worker.turn = None
        worker.ident = threading.get_ident()
        self._loop(worker, task)

    def _loop(self, worker: Worker, task: Task | None) -> None:
        """Run tasks until dismissed, idle for too long, or somebody else's turn has come."""
        run, wake = self._runner.run, worker.wake
        here.worker = worker
        turn_ends = self._now() + TURN
        try:
            while True:
                while task is not None:
                    task = run(worker, task)
                    if self._shared and task is not None and self._now() >= turn_ends:
                        if self._give_turn(worker, task):
                            return
                        turn_ends = self._now() + TURN
                if worker.dismissed:
                    return
                linger = self._linger
                if self._shared:
                    linger = max(0.0, min(linger, turn_ends - self._now()))
                if not wake.acquire(timeout=linger):
                    if self._dispatcher.leave(worker):
                        return
                    # Given a task, or dismissed, at the very moment it gave up waiting.
                    wake.acquire()
                task = worker.task
        finally:
            here.worker = None

    def _give_turn(self, worker: Worker, task: Task) -> bool:
        """Go to the end of the backend's own queue; False when the backend takes nothing any more."""
        turn = worker.turn = object()
        try:
            lease = self._backend.submit(self._resume, worker, task, turn)
        except RuntimeError:
            with self._dispatcher.lock:
                came_up = worker.turn is not turn
                worker.turn = None
            return came_up
        worker.lease = lease
        lease.add_done_callback(lambda ended: self._lease_ended(worker, ended))
        return True

    def _lease_ended(self, worker: Worker, lease: Future[Any]) -> None:
        """Notice a loop that the backend dropped, or that broke down; a regular end needs nothing."""
        error = None if lease.cancelled() else lease.exception()
        if not lease.cancelled() and error is None:
            return
        task = self._dispatcher.lose(worker, began=worker.ident is not None)
        self._on_lost(task, error)
