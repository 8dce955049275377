"""Hand-off: tasks are sent to a backend of another kind one by one, a bounded number at a time.

The bound keeps dwell, cancellation and drop counts truthful: what a backend has taken can no
longer be called back, so it gets no more than its workers need to be kept busy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.interrupts import held_here, in_main_thread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.config.settings import too_many_workers
from prodpool.execution.current_task import thread_state
from prodpool.execution.runner import Runner, check_stack_depth
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.outcomes import State
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors
from prodpool.workers.base import Capabilities, kill, prefetch_for
from prodpool.workers.handoff.backend_worker import BackendWorker
from prodpool.workers.handoff.rebuildable_backend import RebuildableBackend
from prodpool.workers.handoff.transfers import Transfers
from prodpool.workers.run_times import AdaptivePrefetch

# Seconds that the main thread waits for the hand-over that starts a backend's processes, as it would in their
# executor's own ``submit``. Not for ever: pickling the call may want something that the caller holds.
HAND_OVER_TIMEOUT = 10.0
# Frames that a hand-over may need, the start of a process included.
HAND_OVER_FRAMES = 100


class HandoffWorkers:
    """Sends the tasks of one pool to a backend, and keeps a `BackendWorker` for each that is out."""

    def __init__(
        self,
        *,
        pool: str,
        backends: RebuildableBackend,
        abilities: Capabilities,
        prefetch: AdaptivePrefetch,
        context_vars: Sequence[str],
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        now: Callable[[], float],
        own_backend: bool,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._backends = backends
        self._own_backend = own_backend
        self._abilities = abilities
        self._prefetch = prefetch
        self._dispatcher = dispatcher
        self._runner = runner
        self._telemetry_errors = telemetry_errors
        self._now = now
        self._killed = False
        # Workers that were given a task, or retired, while they were free.
        self._assigned: deque[BackendWorker] = deque()
        dispatcher.after_notify = self._after_notify
        self._transfers = Transfers(
            pool,
            backends=backends,
            abilities=abilities,
            context_vars=context_vars,
            dispatcher=dispatcher,
            runner=runner,
            log=log,
            telemetry_errors=telemetry_errors,
            now=now,
            on_sent=self._on_sent,
            on_ran=self._adjust_prefetch,
            on_broken=on_broken,
        )

    def start(self) -> bool:
        """Add one more worker; False when there are enough.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        self._transfers.start()
        worker = BackendWorker(self._pool, self._now)
        worker.notify = partial(self._assigned.append, worker)
        try:
            if not self._dispatcher.add_starting(worker):
                return False
            self._do_uninterrupted(partial(self._begin, worker))
        except BaseException:
            self._dispatcher.start_failed(worker)
            raise
        return True

    def repair(self, call_soon: Callable[[Callable[[], None]], object]) -> None:  # noqa: ARG002
        """Send the tasks that workers were given and that were left there; wake the loop thread once more."""
        if self._assigned:
            self._transfers.call_soon(self._send_assigned)
        self._transfers.wake()

    def prepare_resize(self, workers: int) -> int:
        """Have a backend of ``workers`` workers, if it takes another; return the prefetch that goes with it.

        Raises:
            ValueError: The backend has fewer and cannot be built anew.
        """
        size = self._backends.size
        too_small = size is not None and workers > size
        if too_small and self._dispatcher.state is State.OPEN and not self._backends.replace(workers):
            raise too_many_workers(workers, size)
        return self._prefetch_for(workers)

    def after_resize(self) -> None:
        """Nothing was held back."""

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        return self._backends.rebuilds

    def owned_threads_or_processes(self) -> list[Any]:
        """Return the processes that should have ended when what is ours has."""
        return self._backends.all_processes() if self._own_backend else []

    def can_kill(self) -> bool:
        """Tell whether its workers are processes of this host."""
        return self._abilities.processes is not None and self._own_backend

    def kill(self) -> None:
        """Kill its processes, and those that a hand-over under way is starting."""
        self._killed = True
        for process in self.owned_threads_or_processes():
            kill(process)

    def shutdown(self) -> None:
        """Shut the backend down without waiting, unless it is shared."""
        if self._own_backend:
            # It may be gone already, and say so by raising.
            with self._telemetry_errors.guard("internal"):
                self._backends.shutdown()
        self._transfers.shutdown()

    def close(self) -> None:
        """End the loop thread; nothing more comes back."""
        self._transfers.close()

    def refresh(self) -> None:
        """Set the start of each worker's task.

        As many as there are workers are taken to have begun when they were handed over, the oldest; the
        others wait in the backend.
        """
        with self._dispatcher.lock:
            workers = [
                worker
                for worker in self._dispatcher.worker_set.workers
                if isinstance(worker, BackendWorker) and worker.counts_as_running and worker.at_backend
            ]
            workers.sort(key=lambda worker: worker.sent_at)
            for number, worker in enumerate(workers):
                worker.started = worker.sent_at if number < self._dispatcher.workers() else None

    def _begin(self, worker: BackendWorker) -> None:
        try:
            task = self._dispatcher.mark_started(worker)
        except MemoryError as error:
            task = self._runner.recover(worker, error)
        self._transfers.send_first(worker, task)

    def _after_notify(self) -> None:
        if self._assigned:
            self._do_uninterrupted(self._send_assigned)

    def _send_assigned(self) -> None:
        """Send the tasks that workers were given while they were free."""
        with suppress(IndexError):
            while True:
                worker = self._assigned.popleft()
                try:
                    if not worker.dismissed:
                        self._transfers.send_first(worker, worker.task)
                except MemoryError:
                    self._assigned.appendleft(worker)  # the watchdog comes by
                    raise

    def _do_uninterrupted(self, step: Callable[[], None]) -> None:
        """Make a step of a hand-over here, or in the loop thread where something could break it off.

        In the main thread a signal handler may raise between any two steps. A destructor that submits may run
        on top of a frame which holds the pool's lock, or one of those that a hand-over takes. The watchdog
        must not be held up by the application's own pickling; and a thread with hardly any stack left would
        leave a task unsent.
        """
        if (
            thread_state.handing_over
            or thread_state.settles_for is not None
            or held_here(self._dispatcher.lock)
            or background_thread().is_current_thread()
            or not _has_headroom()
        ):
            self._transfers.call_soon(step)
        elif in_main_thread():
            self._run_in_loop_thread(step)
        else:
            thread_state.handing_over = True
            try:
                step()
            finally:
                thread_state.handing_over = False

    def _run_in_loop_thread(self, step: Callable[[], None]) -> None:
        """Have the loop thread make a step; wait for one that may start the backend's processes.

        A process that is forked must not find locks taken which the main thread took after this.
        """
        processes = self._abilities.processes
        if processes is None or processes(self._backends.backend):
            self._transfers.call_soon(step)
            return
        made = SignalSafeEvent()
        self._transfers.call_soon(partial(_run_and_set, step, made))
        made.wait(HAND_OVER_TIMEOUT)

    def _adjust_prefetch(self, seconds: float) -> None:
        """Have more tasks handed over ahead, or fewer, now that another ran for so long."""
        prefetch, dispatcher = self._prefetch, self._dispatcher
        prefetch.add(seconds)
        if prefetch.update(dispatcher.workers(), wanted=dispatcher.queue.length > 0):
            for _ in range(dispatcher.set_prefetch(self._prefetch_for)):
                self.start()

    def _prefetch_for(self, workers: int) -> int:
        return prefetch_for(workers, self._backends.size, self._prefetch.ahead)

    def _on_sent(self) -> None:
        if self._killed:  # meanwhile, and the processes that were started for it were not there to be seen
            self.kill()


def _has_headroom() -> bool:
    try:
        check_stack_depth(HAND_OVER_FRAMES)
    except RecursionError:
        return False
    return True


def _run_and_set(step: Callable[[], None], made: SignalSafeEvent) -> None:
    try:
        step()
    finally:
        made.set()
