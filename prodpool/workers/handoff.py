"""Hand-off: tasks are given to a backend of another kind one by one, at most a window of them at a time.

The window is what keeps dwell, cancellation and drop counts truthful: what a backend has taken can no
longer be called back, so it gets no more than its workers need to be kept busy.

Whoever gives a seat a task hands that task over, in its own thread; what comes back is settled by the
courier, one thread of the pool's own: a backend makes its done-callbacks under locks that it would take
again for a submit (ProcessPoolExecutor, 3.12 on), or in the thread that everything else waits for (dask).
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Any, NamedTuple

from prodpool.dispatch import Dispatcher
from prodpool.errors import WorkerLostError
from prodpool.execution import Runner
from prodpool.task import Task
from prodpool.telemetry.logs import PoolLog
from prodpool.vocabulary import Result, State
from prodpool.worker import Worker
from prodpool.workers.beacon import Beacon, Sighting
from prodpool.workers.packing import Packing, RemoteTraceback
from prodpool.workers.shim import Outcome, Ticket
from prodpool.workers.supply import Supply

# How often a task that may be repeated is run at most.
MOST_ATTEMPTS = 3


class Seat(Worker):
    """A place in the window: what one worker of a backend is to the dispatcher."""

    __slots__ = ("index", "number", "since")

    def __init__(self, pool: str, now: Callable[[], float], index: int) -> None:
        super().__init__(pool, now)
        self.index = index
        self.number = 0
        # When its task was handed over.
        self.since = 0.0


class Homecoming(NamedTuple):
    """What comes back to the courier: a lease, or (None) the error for which there is none."""

    seat: Seat
    task: Task
    generation: int
    lease: Future[Any] | None
    error: BaseException | None


class HandoffWorkers:
    """Fills the seats of one pool."""

    def __init__(
        self,
        *,
        pool: str,
        supply: Supply,
        packing: Packing,
        beacon: Beacon | None,
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        now: Callable[[], float],
        processes: Callable[[Any], list[Any]],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._supply = supply
        self._packing = packing
        self._beacon = beacon
        self._dispatcher = dispatcher
        self._runner = runner
        self._log = log
        self._now = now
        self._processes = processes
        self._on_broken = on_broken
        self._indexes = itertools.count()
        self._numbers = itertools.count(1)
        self._home: queue.SimpleQueue[Homecoming | None] = queue.SimpleQueue()
        self._start_lock = threading.Lock()
        self._courier: threading.Thread | None = None
        self._closed = False
        # The courier's own: tasks that wait for the next backend, or for a suspect's trial to end.
        self._stranded: deque[tuple[Seat, Task]] = deque()
        self._suspects: deque[tuple[Seat, Task]] = deque()
        self._on_trial: Task | None = None

    def start(self) -> bool:
        """Add one more seat; False when there are enough.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        self._start_courier()
        seat = Seat(self._pool, self._now, next(self._indexes))
        seat.go = lambda: self._go(seat)
        if not self._dispatcher.reserve(seat):
            return False
        self._work(seat, self._dispatcher.begin(seat))
        return True

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        return self._supply.rebuilds

    def holding(self) -> list[Any]:
        """Return the processes that should have ended when the backend has."""
        return self._processes(self._supply.backend)

    def kill(self) -> bool:
        """Kill what hangs, as far as that can be done; False if nothing can."""
        processes = self.holding()
        for process in processes:
            process.kill()
        return bool(processes)

    def shutdown(self) -> None:
        """Have the backend take no more work, and do not wait for it."""
        _shut_down(self._supply.backend)
        # Should the courier wait for the next backend, there will be none.
        self._home.put(None)

    def close(self) -> None:
        """Let the courier go; nothing more comes back."""
        self._closed = True
        self._home.put(None)
        if self._beacon is not None:
            self._beacon.close()

    def look(self) -> None:
        """Have each seat say since when its task really runs."""
        offset = self._now() - time.monotonic()
        for worker in list(self._dispatcher.roster.workers):
            if isinstance(worker, Seat) and worker.started is not None:
                sighting = self._sighting(worker)
                if sighting is not None:
                    worker.started = max(worker.since, sighting.started + offset)

    # Handing over, in the thread of whoever gave the seat its task.

    def _go(self, seat: Seat) -> None:
        """Hand over the task that the seat was given while it was free."""
        if not seat.dismissed:
            self._work(seat, seat.task)

    def _work(self, seat: Seat, task: Task | None) -> None:
        while task is not None:
            task = self._hand_over(seat, task)

    def _hand_over(self, seat: Seat, task: Task) -> Task | None:
        """Hand over ``task``; returns the seat's next one if this one is settled already."""
        now = self._now()
        if self._runner.has_expired(task, now):
            return self._runner.expire(seat, task)
        generation = self._supply.generation
        on_trial = self._on_trial
        if self._supply.down or (on_trial is not None and on_trial is not task):
            self._home.put(Homecoming(seat, task, generation, None, None))
            return None
        try:
            call = self._packing.pack(self._pool, task)
        except Exception as error:  # noqa: BLE001  # a __reduce__ may raise anything
            return self._runner.settle(seat, task, now, now, None, error)
        seat.number, seat.since, seat.started = next(self._numbers), now, now
        ticket = self._ticket(seat, task, now)
        try:
            lease = self._supply.backend.submit(self._packing.shim, ticket, *call)
        except BaseException as error:  # noqa: BLE001
            self._home.put(Homecoming(seat, task, generation, None, error))
            return None
        lease.add_done_callback(lambda lease: self._home.put(Homecoming(seat, task, generation, lease, None)))
        return None

    def _ticket(self, seat: Seat, task: Task, now: float) -> Ticket:
        beacon = self._beacon
        return Ticket(
            self._pool,
            task.name,
            seat.number,
            None if beacon is None else beacon.path,
            0 if beacon is None else seat.index % beacon.slots,
            self._runner.carrier(task, now),
        )

    # Coming home, in the courier's thread.

    def _start_courier(self) -> None:
        with self._start_lock:
            if self._courier is None:
                courier = threading.Thread(
                    target=self._carry, name=f"prodpool-courier-{self._pool}", daemon=True
                )
                contextvars.Context().run(courier.start)
                self._courier = courier

    def _carry(self) -> None:
        while True:
            try:
                item = self._home.get(timeout=self._supply.due_in())
            except queue.Empty:
                self._rebuild()
                continue
            if item is not None:
                self._welcome(item)
            elif self._closed:
                return
            elif self._supply.down:
                self._rebuild()
            del item  # it may be a long time until the next

    def _welcome(self, home: Homecoming) -> None:
        seat, task, generation, lease, error = home
        if lease is None:
            if error is not None and not self._supply.broke(generation):
                self._on_broken(error)
                self._work(seat, self._runner.give_back(seat, task, error))
            else:
                self._strand(seat, task)
            return
        tried = self._on_trial is task
        try:
            outcome: Outcome = lease.result(0)
        except (BrokenExecutor, CancelledError) as broken:
            if tried:
                self._on_trial = None
            self._broken(seat, task, generation, broken)
        except BaseException as failed:  # noqa: BLE001  # the backend's own failure with this one task
            self._work(seat, self._runner.settle(seat, task, seat.since, self._now(), None, failed))
        else:
            self._supply.succeeded(generation)
            self._work(seat, self._settle(seat, task, outcome))
        if tried:
            self._on_trial = None
            self._resume()

    def _settle(self, seat: Seat, task: Task, outcome: Outcome) -> Task | None:
        started, ended = self._times(seat, outcome)
        try:
            value, failure = self._packing.unpack(outcome)
        except Exception as error:  # noqa: BLE001
            value, failure = None, self._packing.unloadable(self._pool, task, error)
        if failure is not None and outcome.stack is not None:
            failure.__cause__ = RemoteTraceback(outcome.stack)
        return self._runner.settle(seat, task, started, ended, value, failure)

    def _times(self, seat: Seat, outcome: Outcome) -> tuple[float, float]:
        """Return when the task began and ended, in seconds of the pool's clock."""
        now = self._now()
        if self._beacon is None:
            # Perhaps another host, with a clock of its own: only the length that it tells can be used.
            return max(seat.since, now - max(0.0, outcome.ended - outcome.started)), now
        offset = now - time.monotonic()
        started = min(max(seat.since, outcome.started + offset), now)
        return started, min(max(started, outcome.ended + offset), now)

    # A backend that broke.

    def _broken(self, seat: Seat, task: Task, generation: int, error: BaseException) -> None:
        """Decide what becomes of a task whose backend broke under it."""
        hope = self._supply.broke(generation)
        if not hope:
            self._on_broken(error)
        stopped = self._is_stopped()
        if hope and not stopped and self._beacon is not None and self._sighting(seat) is None:
            self._strand(seat, task)
        elif hope and not stopped and task.options.idempotent and task.attempt < MOST_ATTEMPTS:
            task.attempt += 1
            self._suspects.append((seat, task))
        else:
            lost = WorkerLostError(
                pool=self._pool, task=task.name, detail=f"the wrapped executor broke: {error!r}"
            )
            lost.__cause__ = error
            now = self._now()
            self._work(seat, self._runner.settle(seat, task, seat.since, now, None, lost, Result.PANIC))
        if not hope:
            self._lose_stranded(error)

    def _strand(self, seat: Seat, task: Task) -> None:
        seat.started = None
        self._stranded.append((seat, task))
        if not self._supply.down:
            self._resume()

    def _rebuild(self) -> None:
        if self._is_stopped():
            self._supply.forget()
            self._lose_stranded(None)
            return
        for process in self.holding():
            with contextlib.suppress(Exception):
                process.kill()
        try:
            self._supply.rebuild(self._dispatcher.workers())
        except Exception as error:  # noqa: BLE001  # the application's factory
            if not self._supply.broke(self._supply.generation):
                self._on_broken(error)
                self._lose_stranded(error)
            return
        if self._is_stopped():  # meanwhile
            self.shutdown()
        self._log.warning("pool.backend_rebuilt", rebuilds=self._supply.rebuilds)
        self._resume()

    def _resume(self) -> None:
        """Hand over what waits: one suspect alone, or everything else."""
        if self._supply.down or self._on_trial is not None:
            return
        if self._suspects:
            seat, self._on_trial = self._suspects.popleft()
            self._work(seat, self._on_trial)
            return
        stranded, self._stranded = self._stranded, deque()
        for seat, task in stranded:
            self._work(seat, task)

    def _lose_stranded(self, error: BaseException | None) -> None:
        """Give up on everything that waits for a backend which will not come."""
        waiting = [*self._suspects, *self._stranded]
        self._suspects.clear()
        self._stranded.clear()
        for seat, task in waiting:
            self._work(seat, self._runner.give_back(seat, task, error))

    def _is_stopped(self) -> bool:
        return self._dispatcher.state is State.STOPPED

    def _sighting(self, seat: Seat) -> Sighting | None:
        if self._beacon is None:
            return None
        return self._beacon.look(seat.index % self._beacon.slots, seat.number)


def _shut_down(backend: Any) -> None:
    shutdown = getattr(backend, "shutdown", None)
    if shutdown is not None:
        shutdown(wait=False)
