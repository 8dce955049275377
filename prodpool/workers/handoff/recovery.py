"""What becomes of tasks whose backend broke under them.

They wait for the next one, or are run alone, or are lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor

from prodpool.errors import WorkerLostError
from prodpool.task.outcomes import LossCause
from prodpool.task.task import Task
from prodpool.telemetry.log_events import PoolLog
from prodpool.text import shown
from prodpool.workers.base import is_repeatable, kill
from prodpool.workers.handoff.backend_worker import BackendWorker
from prodpool.workers.handoff.rebuildable_backend import RebuildableBackend

# The tasks of so many lost workers may come back one among the other.
MOST_LOST = 100


def may_run_again(task: Task) -> bool:
    """Tell whether a task that has lost its worker is to be run again, and count that.

    One of which it is not known that it has never begun has begun.
    """
    again = is_repeatable(task)
    task.attempt += again
    return again


def worker_lost(pool: str, task: Task, error: BaseException) -> WorkerLostError:
    """Return the error of a task that may have run in part when ``error`` ended its worker."""
    broke = (
        f"the wrapped executor broke: {shown(error)}" if isinstance(error, BrokenExecutor) else shown(error)
    )
    lost = WorkerLostError(pool=pool, task=task.name, detail=broke)
    lost.__cause__ = error
    return lost


class Recovery:
    """Keeps the tasks of one pool that have no backend at the moment, and has the next one built.

    Everything happens in the loop thread, save for `must_wait`.

    Args:
        backends: The backend, and the next one.
        log: Where a new backend is announced.
        workers: How many workers it is to have.
        stopped: Whether the pool is, so that there is to be no other.
        send: Sends a worker's task.
        fail: Settles a task that never began.
        count_lost: Counts a lost worker.
        on_broken: Told that nothing can be done about the backend any more.
    """

    def __init__(
        self,
        backends: RebuildableBackend,
        *,
        log: PoolLog,
        workers: Callable[[], int],
        stopped: Callable[[], bool],
        send: Callable[[BackendWorker, Task], None],
        fail: Callable[[BackendWorker, Task, BaseException | None], None],
        count_lost: Callable[[LossCause], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._backends = backends
        self._log = log
        self._workers = workers
        self._stopped = stopped
        self._send = send
        self._fail = fail
        self._count_lost = count_lost
        self._on_broken = on_broken
        # The last backend that was counted as broken. It fails all the calls that it has.
        self._lost_generation = 0
        # Likewise the last workers of one that goes on.
        self._lost_workers: deque[str] = deque(maxlen=MOST_LOST)
        self._waiting: deque[tuple[BackendWorker, Task]] = deque()
        # Each of them, or none, has broken the backend: they are tried one at a time.
        self._to_isolate: deque[tuple[BackendWorker, Task]] = deque()
        self._isolated: Task | None = None

    def must_wait(self, task: Task) -> bool:
        """Tell whether ``task`` has to wait for the next backend, or for an isolated task to end."""
        isolated = self._isolated
        return self._backends.is_down or (isolated is not None and isolated is not task)

    def requeue(self, worker: BackendWorker, task: Task) -> None:
        """Keep a task that never began until there is a backend for it."""
        worker.started = None
        self._waiting.append((worker, task))
        self.resume()

    def on_refused(self, worker: BackendWorker, task: Task, generation: int, error: BaseException) -> None:
        """Keep a task that the backend of ``generation`` did not take, or fail it."""
        self._report_broken(generation, error)
        was_isolated = self.is_isolated(task)
        if was_isolated:
            self._isolated = None
        if not self._backends.mark_broken(generation):
            self._on_broken(error)
            self._fail(worker, task, error)
            self.fail_waiting(error)
        elif was_isolated:
            self._to_isolate.appendleft((worker, task))
            self.resume()
        else:
            self.requeue(worker, task)

    def on_backend_broken(
        self, worker: BackendWorker, task: Task, generation: int, error: BaseException
    ) -> bool:
        """Decide about a task whose backend broke under it; False when it is lost."""
        self._report_broken(generation, error)
        # One that was alone there is what broke it.
        can_rebuild = self._backends.mark_broken(generation, known_cause=self.is_isolated(task))
        if not can_rebuild:
            self._on_broken(error)
        kept = can_rebuild and not self._stopped() and self.isolate(worker, task)
        if not can_rebuild:
            self.fail_waiting(error)
        return kept

    def _report_broken(self, generation: int, error: BaseException) -> None:
        """Count and log a backend that broke, once; which of its tasks did that is not known."""
        if isinstance(error, BrokenExecutor) and generation > self._lost_generation:
            self._lost_generation = generation
            self._report(LossCause.BACKEND, None, error)

    def report_lost(self, task: Task, error: BaseException, worker: str | None) -> None:
        """Count and log the loss of a worker, once for all tasks that it had, or of one that did not start.

        Args:
            task: What was lost with it, or waits for it.
            error: What the future of its call has raised.
            worker: Which worker of the backend it was; None if none was lost.
        """
        if isinstance(error, OSError):
            self._report(LossCause.START, None, error)
        elif worker is not None and worker not in self._lost_workers:
            self._lost_workers.append(worker)
            self._report(LossCause.BACKEND, task, error)

    def _report(self, cause: LossCause, task: Task | None, error: BaseException) -> None:
        if not self._stopped():
            self._count_lost(cause)
            self._log.worker_lost(cause, task, error=self._log.describe(error))

    def isolate(self, worker: BackendWorker, task: Task) -> bool:
        """Have a task run alone whose worker was lost while the backend goes on; False when it is lost."""
        if self._stopped() or not may_run_again(task):
            return False
        worker.started = None
        self._to_isolate.append((worker, task))
        return True

    def is_isolated(self, task: Task) -> bool:
        """Tell whether a task is isolated: run alone; from any thread."""
        return self._isolated is task

    def on_settled(self, task: Task) -> None:
        """Note the end of a task's run, however it came, once what becomes of it is decided; and go on."""
        if self.is_isolated(task):
            self._isolated = None
        self.resume()

    def resume(self) -> None:
        """Send the tasks that wait, if possible: one isolated task alone, or all others."""
        if self._backends.is_down or self._isolated is not None:
            return
        if self._stopped():
            self.fail_waiting(None)
            return
        if self._to_isolate:
            worker, self._isolated = self._to_isolate.popleft()
            self._send(worker, self._isolated)
            return
        waiting, self._waiting = self._waiting, deque()
        for worker, task in waiting:
            self._send(worker, task)

    def rebuild(self) -> None:
        """Build the next backend, which is due."""
        if self._stopped():
            self.fail_waiting_if_stopped()
            return
        for process in self._backends.processes():
            kill(process)
        try:
            self._backends.rebuild(self._workers())
        except Exception as error:  # noqa: BLE001  # the application's factory
            if not self._backends.mark_broken(self._backends.generation):
                self._on_broken(error)
                self.fail_waiting(error)
            return
        if self._stopped():  # meanwhile
            self._backends.shutdown()
        self._log.warning("pool.backend_rebuilt", rebuilds=self._backends.rebuilds)
        self.resume()

    def fail_waiting_if_stopped(self) -> None:
        """Fail the waiting tasks if the pool is stopped, and cancel the rebuild."""
        if self._backends.is_down and self._stopped():
            self._backends.cancel_rebuild()
            self.fail_waiting(None)

    def fail_waiting(self, error: BaseException | None) -> None:
        """Fail all tasks that wait for a backend which will not come."""
        waiting = [*self._to_isolate, *self._waiting]
        self._to_isolate.clear()
        self._waiting.clear()
        for worker, task in waiting:
            self._fail(worker, task, error)
