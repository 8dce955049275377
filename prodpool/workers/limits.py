"""Tasks with a run-time limit: each in an executor of its own, so that killing it harms nobody else.

A process pool breaks as a whole when one of its workers is killed. One executor with one worker is kept for
each such task that runs at a time, and used again for the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from dataclasses import dataclass
from typing import Any, Protocol

from prodpool.errors import TaskTimeoutError
from prodpool.vocabulary import Result
from prodpool.workers.base import kill, shut_down
from prodpool.workers.recovery import may_run_again, worker_lost
from prodpool.workers.window import Handover

# Seconds between two looks at a task that has not begun yet, and those after which it is taken to have:
# by then a worker process hangs that should have come up.
LOOK_EVERY = 0.02
LATEST_START = 30.0


class HandsOver(Protocol):
    """What of `Exchange` is needed here; all of it in the courier's thread."""

    def submit(self, backend: Any, handover: Handover) -> Future[Any] | None:
        """Hand a task over to ``backend``; None if it is settled by that."""
        ...

    def settle(self, handover: Handover, lease: Future[Any]) -> None:
        """Settle a task by its outcome, or raise what came instead of one."""
        ...

    def fail(self, handover: Handover, error: BaseException, result: Result) -> None:
        """Settle a task that has no outcome."""
        ...

    def give_back(self, handover: Handover, error: BaseException | None) -> None:
        """Settle a task that never began."""
        ...

    def post(self, call: Callable[[], object]) -> None:
        """Have a call made in the courier's thread."""


@dataclass(slots=True, eq=False)
class Run:
    """One task in an executor of its own."""

    handover: Handover
    backend: Any
    timeout: float
    killed: bool = False

    def left(self) -> float | None:
        """Return the seconds until its limit; None while it has not begun."""
        began = self.began()
        return None if began is None else began + self.timeout - time.monotonic()

    def began(self) -> float | None:
        """Return the second of the monotonic clock at which it began; None while it has not."""
        seat = self.handover.seat
        sighting = seat.sighting()
        if sighting is not None:
            return sighting.started
        latest = seat.since + LATEST_START
        return time.monotonic() - (seat.now() - latest) if seat.now() >= latest else None


class Limits:
    """Runs the tasks of one pool that have a limit. Used by the courier alone, save for ``backends``.

    Args:
        pool: The pool's name.
        single: Builds an executor with one worker.
        processes: Returns the worker processes of one.
        most_idle: How many are kept at most for tasks to come.
        hands_over: What it works with.
    """

    def __init__(
        self,
        pool: str,
        *,
        single: Callable[[], Any],
        processes: Callable[[Any], list[Any]],
        most_idle: Callable[[], int],
        hands_over: HandsOver,
    ) -> None:
        self._pool = pool
        self._single = single
        self._processes = processes
        self._most_idle = most_idle
        self._hands_over = hands_over
        self._idle: list[Any] = []
        self._runs: set[Run] = set()
        self._closed = False

    def backends(self) -> list[Any]:
        """Return all the executors there are; may be called from any thread."""
        return [*list(self._idle), *(run.backend for run in list(self._runs))]

    def due_in(self) -> float | None:
        """Return the seconds until `check` is to be called again; None while nothing runs."""
        lefts = [run.left() for run in self._runs if not run.killed]
        waits = [LOOK_EVERY if left is None else max(0.0, left) for left in lefts]
        return min(waits, default=None)

    def begin(self, handover: Handover) -> None:
        """Run a task in an executor of its own."""
        timeout = handover.task.options.timeout
        assert timeout is not None  # noqa: S101  # that is why it is here
        if self._closed:
            # Nobody would end what is started now.
            self._hands_over.give_back(handover, None)
            return
        used = bool(self._idle)
        try:
            backend = self._idle.pop() if used else self._single()
        except Exception as error:  # noqa: BLE001  # for want of file descriptors, say
            self._hands_over.give_back(handover, error)
            return
        run = Run(handover, backend, timeout)
        # Known before it is handed over, so that a stop finds it.
        self._runs.add(run)
        try:
            lease = self._hands_over.submit(backend, handover)
        except Exception as error:  # noqa: BLE001  # for want of processes, or after a stop
            self._over(run, sound=False)
            if used and isinstance(error, BrokenExecutor):  # its worker died while it was idle
                self.begin(handover)
            else:
                self._lose(handover, error)
            return
        if lease is None:
            self._over(run, sound=True)
            return
        lease.add_done_callback(lambda lease: self._hands_over.post(lambda: self._home(run, lease)))

    def check(self) -> None:
        """Kill what has run for too long."""
        for run in list(self._runs):
            left = run.left()
            if left is not None and left <= 0.0 and not run.killed:
                run.killed = True
                for process in self._processes(run.backend):
                    kill(process)

    def shutdown(self) -> None:
        """Have the executors take no more work, and do not wait for them."""
        self._closed = True
        for backend in self.backends():
            shut_down(backend)

    def _home(self, run: Run, lease: Future[Any]) -> None:
        handover, task = run.handover, run.handover.task
        error = None if lease.cancelled() else lease.exception()
        broken = lease.cancelled() or error is not None
        self._over(run, sound=not (broken or run.killed))
        if not broken:
            self._hands_over.settle(handover, lease)
        elif run.killed:
            timed_out = TaskTimeoutError(pool=self._pool, task=task.name, timeout=run.timeout)
            self._hands_over.fail(handover, timed_out, Result.TIMEOUT)
        elif not self._closed and may_run_again(task, began=handover.seat.sighting() is not None):
            self.begin(handover)
        else:
            self._lose(handover, error or CancelledError())

    def _lose(self, handover: Handover, error: BaseException) -> None:
        lost = worker_lost(self._pool, handover.task, error)
        self._hands_over.fail(handover, lost, Result.PANIC)

    def _over(self, run: Run, *, sound: bool) -> None:
        self._runs.discard(run)
        if sound and not self._closed and len(self._idle) < self._most_idle():
            self._idle.append(run.backend)
        else:
            shut_down(run.backend)
