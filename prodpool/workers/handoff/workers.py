"""Hand-off: tasks are given to a backend of another kind one by one, at most a window of them at a time.

The window is what keeps dwell, cancellation and drop counts truthful: what a backend has taken can no
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
    """Fills the seats of one pool."""

    def __init__(
        self,
        *,
        pool: str,
        supply: RebuildableBackend,
        abilities: Capabilities,
        pace: AdaptivePrefetch,
        context_vars: Sequence[str],
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        trouble: TelemetryErrors,
        now: Callable[[], float],
        own_backend: bool,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._supply = supply
        self._own_backend = own_backend
        self._abilities = abilities
        self._pace = pace
        self._dispatcher = dispatcher
        self._runner = runner
        self._trouble = trouble
        self._now = now
        self._killed = False
        # Seats that were given a task, or dismissed, while they were free.
        self._given: deque[BackendWorker] = deque()
        dispatcher.after_notify = self._after_notify
        self._exchange = Transfers(
            pool,
            supply=supply,
            abilities=abilities,
            context_vars=context_vars,
            dispatcher=dispatcher,
            runner=runner,
            log=log,
            trouble=trouble,
            now=now,
            on_sent=self._sent,
            on_ran=self._keep_pace,
            on_broken=on_broken,
        )

    def start(self) -> bool:
        """Add one more seat; False when there are enough.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        self._exchange.start()
        seat = BackendWorker(self._pool, self._now)
        seat.notify = partial(self._given.append, seat)
        try:
            if not self._dispatcher.reserve(seat):
                return False
            self._do_uninterrupted(partial(self._begin, seat))
        except BaseException:
            self._dispatcher.start_failed(seat)
            raise
        return True

    def repair(self, aside: Callable[[Callable[[], None]], object]) -> None:  # noqa: ARG002
        """Hand over what was given to seats and left there, and wake the courier in case it was not."""
        if self._given:
            self._exchange.post(self._hand_over_given)
        self._exchange.nudge()

    def fit(self, workers: int) -> int:
        """Have a backend of ``workers`` workers, if it takes another; return the prefetch that goes with it.

        Raises:
            ValueError: The backend has fewer and cannot be built anew.
        """
        size = self._supply.size
        too_small = size is not None and workers > size
        if too_small and self._dispatcher.state is State.OPEN and not self._supply.replace(workers):
            raise too_many_workers(workers, size)
        return self._ahead(workers)

    def resized(self) -> None:
        """Nothing was held back."""

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        return self._supply.rebuilds

    def holding(self) -> list[Any]:
        """Return the processes that should have ended when what is ours has."""
        return self._supply.all_processes() if self._own_backend else []

    def can_kill(self) -> bool:
        """Tell whether its workers are processes of this host."""
        return self._abilities.processes is not None and self._own_backend

    def kill(self) -> None:
        """Kill its processes, and those that a hand-over under way is starting."""
        self._killed = True
        for process in self.holding():
            kill(process)

    def shutdown(self) -> None:
        """Have the backend take no more work, unless somebody else keeps it, and do not wait for it."""
        if self._own_backend:
            # It may be gone already, and say so by raising.
            with self._trouble.guard("internal"):
                self._supply.shutdown()
        self._exchange.shutdown()

    def close(self) -> None:
        """Let the courier go; nothing more comes back."""
        self._exchange.close()

    def look(self) -> None:
        """Note for each seat since when its task runs.

        As many as there are workers are taken to have begun when they were handed over, the oldest; the
        others wait in the backend.
        """
        with self._dispatcher.lock:
            seats = [
                seat
                for seat in self._dispatcher.roster.workers
                if isinstance(seat, BackendWorker) and seat.occupied and seat.away
            ]
            seats.sort(key=lambda seat: seat.since)
            for number, seat in enumerate(seats):
                seat.started = seat.since if number < self._dispatcher.workers() else None

    def _begin(self, seat: BackendWorker) -> None:
        try:
            task = self._dispatcher.begin(seat)
        except MemoryError as error:
            task = self._runner.recover(seat, error)
        self._exchange.set_to_work(seat, task)

    def _after_notify(self) -> None:
        if self._given:
            self._do_uninterrupted(self._hand_over_given)

    def _hand_over_given(self) -> None:
        """Hand over the tasks that seats were given while they were free."""
        with suppress(IndexError):
            while True:
                seat = self._given.popleft()
                try:
                    if not seat.dismissed:
                        self._exchange.set_to_work(seat, seat.task)
                except MemoryError:
                    self._given.appendleft(seat)  # the watchdog comes by
                    raise

    def _do_uninterrupted(self, step: Callable[[], None]) -> None:
        """Make a step of a hand-over here, or have the courier make it where something could break it off.

        In the main thread a signal handler may raise between any two steps. A destructor that submits may run
        on top of a frame which holds the pool's lock, or one of those that a hand-over takes. The watchdog
        must not be held up by the application's own pickling; and whoever has hardly any stack left would
        leave a task that nobody hands over.
        """
        if (
            thread_state.handing_over
            or thread_state.settles is not None
            or held_here(self._dispatcher.lock)
            or background_thread().is_here()
            or not _has_headroom()
        ):
            self._exchange.post(step)
        elif in_main_thread():
            self._have_made(step)
        else:
            thread_state.handing_over = True
            try:
                step()
            finally:
                thread_state.handing_over = False

    def _have_made(self, step: Callable[[], None]) -> None:
        """Have the courier make a step, and wait for one that may start the backend's processes.

        A process that is forked must not find locks taken which the main thread took after this.
        """
        processes = self._abilities.processes
        if processes is None or processes(self._supply.backend):
            self._exchange.post(step)
            return
        made = SignalSafeEvent()
        self._exchange.post(partial(_make, step, made))
        made.wait(HAND_OVER_TIMEOUT)

    def _keep_pace(self, seconds: float) -> None:
        """Have more tasks handed over ahead, or fewer, now that another ran for so long."""
        pace, dispatcher = self._pace, self._dispatcher
        pace.note(seconds)
        if pace.step(dispatcher.workers(), wanted=dispatcher.queue.length > 0):
            for _ in range(dispatcher.look_ahead(self._ahead)):
                self.start()

    def _ahead(self, workers: int) -> int:
        return prefetch_for(workers, self._supply.size, self._pace.ahead)

    def _sent(self) -> None:
        if self._killed:  # meanwhile, and the processes that were started for it were not there to be seen
            self.kill()


def _has_headroom() -> bool:
    try:
        check_stack_depth(HAND_OVER_FRAMES)
    except RecursionError:
        return False
    return True


def _make(step: Callable[[], None], made: SignalSafeEvent) -> None:
    try:
        step()
    finally:
        made.open()
