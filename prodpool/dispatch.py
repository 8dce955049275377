"""One lock and what it guards: which task waits, which worker is free, who gets what next.

Nothing here calls out while the lock is held: what a state change brings about (a submitter to tell,
a loop to start, a log line) is returned or left in ``line.to_tell`` for the caller to do afterwards.

Invariants, while the pool is not paused:
- a task waits only when no worker is parked;
- ``queued <= queue_capacity``, not counting one task for each worker that is on its way to take it.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from prodpool.admission.gate import Line, Waiter
from prodpool.queues import FifoQueue
from prodpool.roster import Roster
from prodpool.task import Task
from prodpool.telemetry.ledger import Ledger
from prodpool.vocabulary import Reason, State
from prodpool.worker import Worker


class Offer(Enum):
    """What became of a task that was offered."""

    ADMITTED = auto()
    NEEDS_WORKER = auto()
    FULL = auto()
    WAITING = auto()
    CLOSED = auto()


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Where the admitted, unfinished tasks are at one moment."""

    queued: int
    running: int


class Dispatcher:
    """Matches tasks with workers. ``lock`` guards every field of it and of its parts."""

    def __init__(
        self,
        *,
        workers: int,
        queue_capacity: int,
        ledger: Ledger,
        now: Callable[[], float],
        prefetch: int = 0,
    ) -> None:
        self.lock = threading.Lock()
        self.ledger = ledger
        self.queue_capacity = queue_capacity
        self._workers = workers
        # Tasks that a backend takes beyond what it can run. They wait there instead of in the queue.
        self.prefetch = min(prefetch, queue_capacity)
        self.queue: FifoQueue[Task] = FifoQueue()
        self.line = Line(ledger, now)
        self.roster = Roster(workers + self.prefetch)
        self.state = State.OPEN
        self.paused = False
        # No queued task expires before this second.
        self.next_expiry = math.inf
        # Queued tasks that their own waiter runs right now (see `take_out`); they keep their place.
        self.assisted = 0
        # What the ledger said had ended when the draining began; see `Ledger.ended`.
        self.at_close = (0, 0)
        # Something is put here whenever a draining pool becomes idle; `is_quiet` tells the truth. A
        # SimpleQueue and no Event, because a signal handler may put something as well.
        self.stirred: queue.SimpleQueue[None] = queue.SimpleQueue()

    # The submitter's side.

    def offer(self, task: Task, waiter: Waiter | None = None, *, may_start: bool = True) -> Offer:
        """Admit ``task`` if there is a worker or a place for it; with a waiter, stand in line if not.

        NEEDS_WORKER: a loop may be started for it; reserve and start one, then offer again.
        ``may_start`` is False where that has been tried in vain: answered only when no loop is left at all.
        """
        with self.lock:
            if self.state is not State.OPEN:
                return Offer.CLOSED
            depth = self.queue.length
            worker = None
            if not self.paused and not (self.assisted and self._all_taken()):
                roster = self.roster
                if roster.parked:
                    worker = roster.wake_newest(task)
                elif len(roster.workers) < roster.max_workers and self._wants_worker(may_start):
                    return Offer.NEEDS_WORKER
            if worker is None:
                least_room = self.queue_capacity - self.prefetch
                if depth + self.assisted >= least_room and depth + self.assisted >= self._room():
                    if waiter is None:
                        return Offer.FULL
                    self.line.push(waiter)
                    return Offer.WAITING
                self._enqueue(task)
            self.ledger.submitted += 1
        if worker is not None:
            worker.go()
        return Offer.ADMITTED

    def step_out(self, waiter: Waiter) -> bool:
        """Leave the line; False when the waiter was told (or is about to be) already."""
        with self.lock:
            return self.line.give_up(waiter)

    def refuse(self, reason: Reason) -> None:
        """Count one task that was turned away at the door."""
        with self.lock:
            self.ledger.dropped[reason] += 1

    def discard(self, task: Task, reason: Reason) -> bool:
        """Take a queued task out for good and count it as dropped; False when it is not queued."""
        with self.lock:
            if not self.queue.discard(task):
                return False
            self.ledger.dropped[reason] += 1
            self._fill()
            self._check_quiet()
        self.line.tell()
        return True

    def take_out(self, task: Task) -> bool:
        """Take a queued task out to be run by whoever waits for it; False when it is not queued.

        It keeps its place (``assisted``) until it is settled: the waiting worker runs one thing at a
        time, so counting it as a second running task would break the bound, and not at all the law.
        A task for which a loop was coming had no place in the queue; it keeps that loop's (`_all_taken`).
        """
        with self.lock:
            if not self.queue.discard(task):
                return False
            self.assisted += 1
            task.future.begin()
        return True

    # The worker's side.

    def reserve(self, worker: Worker) -> bool:
        """Count ``worker`` in before its loop is started; False when there are enough by now."""
        with self.lock:
            reserved = self.state is not State.STOPPED and self.roster.reserve(worker)
            if reserved:
                # The place that comes with it is for whoever has waited longest.
                self._fill()
        self.line.tell()
        return reserved

    def begin(self, worker: Worker) -> Task | None:
        """Take the first task of a loop that has just come up; dismiss one struck out before that."""
        with self.lock:
            task = self.take(worker) if self.roster.begin(worker) else None
        self.line.tell()
        return task

    def take(self, worker: Worker) -> Task | None:
        """Give ``worker`` the next task, or park it, or dismiss it. The lock is held.

        Whoever calls it tells the line once the lock is released.
        """
        roster = self.roster
        surplus = len(roster.workers) > roster.max_workers
        free = not (self.paused or surplus)
        # What was admitted on the strength of this worker's coming it takes in any case.
        if free or self.queue.length + self.assisted > self._places():
            task = self.queue.pop()
            if task is None and free and self.line.length and not (self.assisted and self._all_taken(but=1)):
                task = self.line.admit()
            if task is not None:
                # Assigned first, so that this worker no longer counts as one to come.
                roster.assign(worker, task)
                if self.line.length:
                    self._fill()
                return task
        worker.task = None
        if surplus or self.state is State.STOPPED:
            roster.dismiss(worker)
        else:
            roster.park(worker)
        if self.line.length:
            self._fill()
        self._check_quiet()
        return None

    def leave(self, worker: Worker) -> bool:
        """Let a worker go that has parked for long enough; False when it was given a task just now."""
        with self.lock:
            left = self.roster.leave(worker)
            self._check_quiet()
            return left

    def lose(self, worker: Worker, *, began: bool) -> Task | None:
        """Strike out a worker whose loop never came up or broke down.

        Returns the task it was given and had not ended, counted as dropped by now.
        """
        with self.lock:
            unfinished = worker.occupied
            task = self.roster.lose(worker, began=began)
            woken: list[Worker] = []
            if unfinished:
                self.ledger.dropped[Reason.SHUTDOWN] += 1
                woken = self.release_running(worker)
            self._check_quiet()
        self.wake(woken)
        return task if unfinished else None

    # The owner's side.

    def pause(self) -> None:
        """Let running tasks finish and start no other. A pool that drains is past pausing."""
        with self.lock:
            self.paused = self.state is State.OPEN

    def resume(self) -> int:
        """Start tasks again; returns how many loops are to be started for those that wait."""
        with self.lock:
            self.paused = False
            woken, missing = self._put_to_work()
        self.wake(woken)
        return missing

    def resize(self, workers: int, prefetch: int = 0) -> int:
        """Set how many tasks may run at once; returns how many loops are to be started."""
        with self.lock:
            woken, missing = self._resize(workers, prefetch)
        self.wake(woken)
        return missing

    def look_ahead(self, prefetch: Callable[[int], int]) -> int:
        """Set how many are taken beyond those, which it is told; returns how many loops are to be started."""
        with self.lock:
            workers = self.workers()
            woken, missing = self._resize(workers, prefetch(workers))
        self.wake(woken)
        return missing

    def close(self) -> int:
        """Begin to drain: nobody is let in any more. Returns how many loops are to be started."""
        with self.lock:
            if self.state is State.OPEN:
                self.state = State.DRAINING
                self.at_close = self.ledger.ended()
            self.line.turn_away()
            self.paused = False
            woken, missing = self._put_to_work()
            self._check_quiet()
        self.wake(woken)
        return missing

    def is_quiet(self) -> bool:
        """Tell whether nothing is queued or running and no worker is on its way."""
        with self.lock:
            return self._idle()

    def expired(self, now: float) -> list[Task]:
        """Return the queued tasks whose deadline has passed; looks at none before one can have."""
        with self.lock:
            if now < self.next_expiry:
                return []
            ends = [(task.expires_at, task) for task in self.queue.snapshot() if task.expires_at is not None]
            self.next_expiry = min((end for end, _ in ends if end > now), default=math.inf)
            return [task for end, task in ends if end <= now]

    def drop_queued(self, reason: Reason) -> list[Task]:
        """Take every task out for good that no thread has begun, counted as dropped."""
        with self.lock:
            tasks = self._void_turns() + self.queue.drain()
            self.ledger.dropped[reason] += len(tasks)
            self._check_quiet()
        return tasks

    def _void_turns(self) -> list[Task]:
        """Strike out the workers that wait for their turn in a shared backend; return their tasks."""
        waiting = [worker for worker in self.roster.workers if worker.turn is not None]
        tasks = [worker.task for worker in waiting if worker.task is not None]
        for worker in waiting:
            worker.turn = worker.task = None
            self.roster.release(worker)
            self.roster.dismiss(worker)
        return tasks

    def missing(self) -> int:
        """Return how many loops should be started for tasks that wait in vain (a start had failed)."""
        with self.lock:
            return 0 if self.paused or self.roster.parked else self._missing()

    def finish(self) -> list[Worker]:
        """End the draining: parked workers go. Returns those that are still busy."""
        with self.lock:
            self.state = State.STOPPED
            gone = self.roster.dismiss_parked(len(self.roster.parked))
            busy = [one for one in self.roster.workers if one.ident is not None or one.task is not None]
        self.wake(gone)
        return busy

    def release_running(self, worker: Worker) -> list[Worker]:
        """Give back the place of a task that has ended, before its worker is back. The lock is held.

        Returns the parked workers that have got a task by that, for `wake`.
        """
        self.roster.release(worker)
        return self._put_to_work()[0] if self.line.length else []

    def release_assisted(self) -> list[Worker]:
        """Give back the place of a task that its waiter ran. The lock is held.

        Returns the parked workers that have got a task by that, for `wake`.
        """
        self.assisted -= 1
        return self._put_to_work()[0]

    def workers(self) -> int:
        """Return how many tasks may run at once."""
        return self._workers

    def occupancy(self) -> Occupancy:
        """Where the unfinished tasks are. The lock is held.

        A task for which a worker is on its way counts as running, just as one handed to a parked
        worker does: it has left the queue's bound.
        """
        roster = self.roster
        coming = min(self._expected(), self.queue.length, max(0, roster.max_workers - roster.running))
        prefetched = self._prefetched(roster.running + coming)
        waiting = self.queue.length + self.assisted - coming + prefetched
        over = max(0, waiting - self.queue_capacity)
        return Occupancy(waiting - over, roster.running + coming - prefetched + over)

    # What they share. The lock is held in all of these.

    def _wants_worker(self, may_start: bool) -> bool:
        """Tell whether the loops that are starting up have enough to do with what is admitted already.

        Without ``may_start`` one is wanted only if there is none at all.
        """
        length = self.queue.length
        enough = max(length, length + self.assisted - self._places()) >= self.roster.starting
        return enough and (may_start or not self.roster.workers)

    def _enqueue(self, task: Task) -> None:
        if task.expires_at is not None and task.expires_at < self.next_expiry:
            self.next_expiry = task.expires_at
        self.queue.push(task)

    def _room(self) -> int:
        """Return how many tasks may stand in the queue: its capacity, and one for each worker to come."""
        expected = self._expected()
        return self._places(expected) + expected

    def _places(self, expected: int = 0) -> int:
        """Return how many tasks may wait here: fewer than in all by those that wait in the backend."""
        return self.queue_capacity - self._prefetched(self.roster.running + expected)

    def _prefetched(self, handed_over: int) -> int:
        return min(self.prefetch, max(0, handed_over - self.workers())) if self.prefetch else 0

    def _expected(self) -> int:
        """Count the workers that are on their way to a task; while the pool is paused none is."""
        return 0 if self.paused else self.roster.coming()

    def _admit_unless_taken(self) -> Task | None:
        return None if self.assisted and self._all_taken() else self.line.admit()

    def _all_taken(self, *, but: int = 0) -> bool:
        """Tell whether assisted tasks that have no place in the queue take up the last workers.

        ``but``: workers on their way that are not to be counted, being the ones that ask.
        """
        coming = max(0, self.roster.coming() - but)
        over = max(0, self.queue.length + self.assisted - self._places() - coming)
        return self.roster.running + coming + over >= self.roster.max_workers

    def _fill(self) -> None:
        while self.line.length and self.queue.length + self.assisted < self._room():
            task = self.line.admit()
            if task is not None:
                self._enqueue(task)

    def _resize(self, workers: int, prefetch: int) -> tuple[list[Worker], int]:
        self._workers, self.prefetch = workers, min(prefetch, self.queue_capacity)
        self.roster.max_workers = workers + self.prefetch
        surplus = self.roster.dismiss_parked(self.roster.surplus())
        woken, missing = self._put_to_work()
        return surplus + woken, missing

    def _put_to_work(self) -> tuple[list[Worker], int]:
        woken: list[Worker] = []
        if self.paused:
            self._fill()
            return woken, 0
        while self.roster.parked and (task := self.queue.pop() or self._admit_unless_taken()) is not None:
            woken.append(self.roster.wake_newest(task))
        self._fill()
        return woken, self._missing()

    def _missing(self) -> int:
        wanted = self.queue.length + self.line.length - self.roster.starting
        return max(0, min(self.roster.max_workers - len(self.roster.workers), wanted))

    def _check_quiet(self) -> None:
        if self.state is not State.OPEN and self._idle():
            self.stirred.put(None)

    def _idle(self) -> bool:
        return not (self.roster.running or self.assisted or self.queue.length or self.roster.away())

    def wake(self, workers: list[Worker]) -> None:
        """Set parked workers going; the lock is released by now."""
        for worker in workers:
            worker.go()
        self.line.tell()
