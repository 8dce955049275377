"""Hand-off: tasks are given to a backend of another kind one by one, at most a window of them at a time.

The window is what keeps dwell, cancellation and drop counts truthful: what a backend has taken can no
longer be called back, so it gets no more than its workers need to be kept busy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prodpool.dispatch import Dispatcher
from prodpool.execution import Runner
from prodpool.telemetry.logs import PoolLog
from prodpool.telemetry.trouble import Trouble
from prodpool.vocabulary import State
from prodpool.workers.base import Capabilities, kill, prefetch_for, too_many
from prodpool.workers.beacon import Beacon
from prodpool.workers.exchange import Exchange
from prodpool.workers.pace import Pace
from prodpool.workers.remote_stacks import RemoteStacks
from prodpool.workers.seat import Seat
from prodpool.workers.supply import Supply


class HandoffWorkers:
    """Fills the seats of one pool."""

    def __init__(
        self,
        *,
        pool: str,
        supply: Supply,
        abilities: Capabilities,
        pace: Pace,
        context_vars: Sequence[str],
        beacon: Beacon | None,
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        trouble: Trouble,
        now: Callable[[], float],
        own_backend: bool,
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._supply = supply
        self._own_backend = own_backend
        self._abilities = abilities
        self._pace = pace
        self._beacon = beacon
        self._stacks = None if beacon is None else RemoteStacks(beacon.path, self.holding)
        self._dispatcher = dispatcher
        self._trouble = trouble
        self._now = now
        self._killed = False
        self._exchange = Exchange(
            pool,
            supply=supply,
            abilities=abilities,
            context_vars=context_vars,
            beacon=beacon,
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
        seat = Seat(self._pool, self._now, self._beacon, self._stacks)
        seat.go = lambda: self._go(seat)
        if not self._dispatcher.reserve(seat):
            return False
        self._lend_slot(seat)
        self._exchange.set_to_work(seat, self._dispatcher.begin(seat))
        return True

    def fit(self, workers: int) -> int:
        """Have a backend of ``workers`` workers, if it takes another; return the prefetch that goes with it.

        Raises:
            ValueError: The backend has fewer and cannot be built anew.
        """
        size = self._supply.size
        too_small = size is not None and workers > size
        if too_small and self._dispatcher.state is State.OPEN and not self._supply.replace(workers):
            raise too_many(workers, size)
        return self._ahead(workers)

    def resized(self) -> None:
        """Hand over what was held for want of workers."""
        self._exchange.refit()

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        return self._supply.rebuilds

    def holding(self) -> list[Any]:
        """Return the processes that should have ended when what is ours has."""
        ours = self._supply.all_processes() if self._own_backend else []
        return [*ours, *self._exchange.limited_processes()]

    def can_kill(self) -> bool:
        """Tell whether its workers are processes of this host."""
        return self._abilities.processes is not None

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
        if self._beacon is not None:
            self._beacon.close()
        if self._stacks is not None:
            self._stacks.close()

    def look(self) -> None:
        """Note for each seat since when its task runs.

        Of those that nobody has seen begin, as many as there are workers left are taken to have begun when
        they were handed over; the others wait in the backend.
        """
        with self._dispatcher.lock:
            free, unseen = self._dispatcher.workers(), []
            for seat in self._dispatcher.roster.workers:
                if not (isinstance(seat, Seat) and seat.occupied and seat.number):
                    continue
                seat.started = seat.began()
                if seat.started is None:
                    unseen.append(seat)
                else:
                    free -= 1
            unseen.sort(key=lambda seat: seat.since)
            for seat in unseen[: max(0, free)]:
                seat.started = seat.since

    def _lend_slot(self, seat: Seat) -> None:
        """Give a seat the first slot of the beacon that no other seat of the pool has."""
        if self._beacon is None:
            return
        with self._dispatcher.lock:
            taken = {each.slot for each in self._dispatcher.roster.workers if isinstance(each, Seat)}
            seat.slot = next((slot for slot in range(self._beacon.slots) if slot not in taken), None)

    def _go(self, seat: Seat) -> None:
        """Hand over the task that the seat was given while it was free."""
        if not seat.dismissed:
            self._exchange.set_to_work(seat, seat.task)

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
