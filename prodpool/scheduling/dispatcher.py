"""One lock and what it guards: which task waits, which worker is free, who gets what next.

Nothing here calls out while the lock is held: what a state change brings about (a submitter to tell,
a loop to start, a log line) is returned or left in ``line.to_notify`` for the caller to do afterwards.

A signal handler may raise, garbage may be collected and an allocation may fail at any call. Therefore each
step first looks and reckons, and then changes the state in a run of stores without a call in between; what
must follow (a worker to be woken) is the last act of the run, still under the lock. So whoever interrupts
a step finds it either not begun or done, and may use the pool there: the lock is reentrant. What is left
undone between two steps, `repair` does.

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

from prodpool.scheduling.fifo_queue import FifoQueue
from prodpool.scheduling.wait_queue import Waiter, WaitQueue
from prodpool.scheduling.worker import Worker
from prodpool.scheduling.worker_set import WorkerSet
from prodpool.task.future import RUNNING
from prodpool.task.outcomes import Reason, State
from prodpool.task.task import Task
from prodpool.telemetry.counters import PoolCounters


class Admission(Enum):
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
        counters: PoolCounters,
        now: Callable[[], float],
        prefetch: int = 0,
    ) -> None:
        self.lock = threading.RLock()
        self.counters = counters
        self.queue_capacity = queue_capacity
        self._workers = workers
        # Tasks that a backend takes beyond what it can run. They wait there instead of in the queue.
        self.prefetch = min(prefetch, queue_capacity)
        # As many may wait there now: more than that, for a while, after it was made less.
        self._ahead = self.prefetch
        self.queue: FifoQueue[Task] = FifoQueue()
        self.waiters = WaitQueue(counters, now, self.lock)
        self.worker_set = WorkerSet(workers + self.prefetch)
        # Tasks that are counted as dropped, until their futures are settled.
        self.unsettled: FifoQueue[Task] = FifoQueue()
        self.state = State.OPEN
        self.paused = False
        # No queued task expires before this second.
        self.next_expiry = math.inf
        # Queued tasks that their own waiter runs right now (see `take_out`); they keep their place.
        self.inline = 0
        # What the ledger said had ended when the draining began; see `PoolCounters.ended`.
        self.ended_at_close = (0, 0)
        # Something is put here whenever a draining pool becomes idle; `is_quiet` tells the truth. A
        # SimpleQueue and no Event, because a signal handler may put something as well.
        self.idle_signal: queue.SimpleQueue[None] = queue.SimpleQueue()
        # What is to be done, without the lock, when workers were notified; None: nothing.
        self.after_notify: Callable[[], object] | None = None

    # The submitter's side.

    def try_admit(  # noqa: C901  # one step, all of it in line
        self, task: Task, waiter: Waiter | None = None, *, may_start: bool = True
    ) -> Admission:
        """Admit ``task`` if there is a worker or a place for it; with a waiter, stand in line if not.

        NEEDS_WORKER: a loop may be started for it; reserve and start one, then offer again.
        ``may_start`` is False where that has been tried in vain: answered only when no loop is left at all.
        """
        queue, worker_set, counters = self.queue, self.worker_set, self.counters
        parked = worker_set.parked
        with self.lock:
            loops = len(worker_set.workers)
            if self.state is not State.OPEN:
                return Admission.CLOSED
            worker: Worker | None = None
            in_flight = queue.length + worker_set.running + self.inline
            if not self.paused and in_flight < self._workers + self.queue_capacity:
                if parked.length:
                    running, submitted, free = (
                        worker_set.running + 1,
                        counters.submitted + 1,
                        parked.length - 1,
                    )
                    # No call from here to the last: see above.
                    worker = newest = parked.last
                    ahead = parked.last = newest.prev
                    ahead.next = newest.prev = None
                    parked.length = free
                    newest.task = task
                    newest.counts_as_running = True
                    worker_set.running = running
                    task.future._state = RUNNING  # noqa: SLF001  # `begin` would be a call
                    counters.submitted = submitted
                    try:  # noqa: SIM105  # a context manager would be a call
                        newest.notify()
                    except RuntimeError:  # reminded (see `repair`), and awake already
                        pass
                elif (
                    loops < worker_set.max_workers
                    and (may_start or not loops)
                    # The loops that are starting up may have enough to do with what is admitted already.
                    and (queue.length >= worker_set.starting or in_flight >= self._slots())
                ):
                    return Admission.NEEDS_WORKER
            if worker is None:
                if in_flight >= self.queue_capacity:
                    slots = self._slots()
                    # That was a call: look again.
                    in_flight = queue.length + worker_set.running + self.inline
                    if in_flight >= slots:
                        if waiter is None:
                            return Admission.FULL
                        self.waiters.push(waiter)
                        return Admission.WAITING
                submitted, length = counters.submitted + 1, queue.length + 1
                # Likewise.
                if task.expires_at is not None and task.expires_at < self.next_expiry:
                    self.next_expiry = task.expires_at
                last = task.prev = queue.last
                last.next = queue.last = task
                queue.length = length
                counters.submitted = submitted
                return Admission.ADMITTED
        if self.after_notify is not None:
            self.after_notify()
        return Admission.ADMITTED

    def cancel_wait(self, waiter: Waiter) -> bool:
        """Leave the line; False when the waiter was told (or is about to be) already."""
        with self.lock:
            return self.waiters.remove(waiter)

    def count_rejection(self, reason: Reason) -> None:
        """Count one task that was turned away at the door."""
        with self.lock:
            self.counters.dropped[reason] += 1

    def count_expired_in_wait(self) -> None:
        """Count a task whose deadline passed in line: as one that was admitted, waited and expired."""
        reason, counters = Reason.EXPIRED, self.counters
        dropped = counters.dropped
        with self.lock:
            submitted, expired = counters.submitted + 1, dropped[reason] + 1
            counters.submitted = submitted
            dropped[reason] = expired

    def discard(self, task: Task, reason: Reason) -> bool:
        """Take a queued task out for good and count it as dropped; False when it is not queued.

        It is ``unsettled`` until `settled` says otherwise.
        """
        with self.lock:
            if task.dropped is not None or task.prev is None:
                return False
            self._drop(task, reason)
            self.use_freed_slot()
        self.notify_waiters()
        return True

    def mark_settled(self, task: Task) -> None:
        """Note that the future of a dropped task is settled, and everybody told."""
        with self.lock:
            self.unsettled.discard(task)

    def claim_inline(self, task: Task) -> bool:
        """Take a queued task out to be run by whoever waits for it; False when it is not queued.

        It keeps its place (``inline``) until it is settled: the waiting worker runs one thing at a
        time, so counting it as a second running task would break the bound, and not at all the law.
        A task for which a loop was coming had no place in the queue; it keeps that loop's.
        """
        with self.lock:
            if task.dropped is not None or task.prev is None:
                return False
            inline = self.inline + 1
            self.queue.discard(task)
            self.inline = inline
            task.future._state = RUNNING  # noqa: SLF001  # `begin` would be a call
        return True

    # The worker's side.

    def add_starting(self, worker: Worker) -> bool:
        """Count ``worker`` in before its loop is started; False when there are enough by now.

        Whatever is raised here or afterwards, `start_failed` takes it back.
        """
        with self.lock:
            reserved = self.state is not State.STOPPED and self.worker_set.add_starting(worker)
            if reserved:
                # The place that comes with it is for whoever has waited longest.
                self._admit_waiters()
        self.notify_waiters()
        return reserved

    def start_failed(self, worker: Worker) -> None:
        """Strike a reserved worker out, unless its loop has come up after all."""
        with self.lock:
            if not worker.begun:
                self.worker_set.remove(worker)
            self._signal_if_idle()

    def mark_started(self, worker: Worker) -> Task | None:
        """Take the first task of a loop that has just come up; dismiss one struck out before that."""
        with self.lock:
            task = self.next_task(worker) if self.worker_set.mark_started(worker) else None
        self.notify_waiters()
        return task

    def next_task(self, worker: Worker) -> Task | None:
        """Give ``worker`` the next task, or park it, or dismiss it. The lock is held.

        Whoever calls it tells the line once the lock is released.
        """
        worker_set, queue = self.worker_set, self.queue
        promoted = worker_set.promote(worker) if worker.ahead else None
        if promoted is not None:
            # Others may be free to run what is let in now.
            self.use_freed_slot()
            return promoted
        if self.waiters.length:
            self._admit_waiters()
        surplus = len(worker_set.workers) > worker_set.max_workers
        # What was admitted on the strength of this worker's coming it takes in any case.
        takes = not (self.paused or surplus) or self.in_flight - self._busy() > self.queue_capacity
        if takes and queue.length:
            return worker_set.assign(worker, queue)
        # Whoever asks still holds the task that it had: nothing is freed by this.
        worker.task = None
        if surplus or self.state is State.STOPPED:
            worker_set.retire(worker)
        else:
            free = worker_set.parked.length + 1
            # No call from here on, as in `FifoQueue.push`.
            last = worker.prev = worker_set.parked.last
            last.next = worker_set.parked.last = worker
            worker_set.parked.length = free
        if self.state is not State.OPEN:
            self._signal_if_idle()
        return None

    def assign_ahead(self, worker: Worker, most: int) -> int:
        """Give ``worker`` up to ``most`` tasks to run after its own; returns how many.

        None with a run-time limit, since its worker may have to be killed: what waits behind is moved.
        """
        count = 0
        with self.lock:
            worker_set, queue = self.worker_set, self.queue
            if self.paused or worker_set.surplus() or self.state is State.STOPPED:
                return 0
            while count < most and (task := queue.first()) is not None and task.options.timeout is None:
                count += worker_set.assign_ahead(worker, queue, task)
        return count

    def requeue_ahead(self, worker: Worker, *, sent: bool = True) -> int:
        """Put back in the queue what ``worker`` was given ahead and has not begun, or was not even sent.

        Returns how many loops are to be started.
        """
        with self.lock:
            self._requeue_ahead(worker, sent=sent)
            missing = self._assign_queued()
        self.notify_waiters()
        return missing

    def requeue_all_ahead(self) -> int:
        """Do so for what any worker was given ahead and has not begun."""
        with self.lock:
            self._requeue_all_ahead()
            missing = self._assign_queued()
        self.notify_waiters()
        return missing

    def _requeue_all_ahead(self) -> None:
        for worker in self.worker_set.workers:
            self._requeue_ahead(worker, sent=True)

    def _requeue_ahead(self, worker: Worker, *, sent: bool) -> None:
        if not worker.ahead:
            return
        for _ in range(worker.withdraw_ahead(sent=sent)):
            task = self.worker_set.requeue(worker, self.queue)
            if task.expires_at is not None:
                self.next_expiry = min(self.next_expiry, task.expires_at)

    def remove_lost(self, worker: Worker) -> None:
        """Strike out a worker whose process is gone, and put back in the queue what it has not begun."""
        with self.lock:
            self.worker_set.demote(worker)
            while worker.ahead:
                self.worker_set.requeue(worker, self.queue)
            self.worker_set.remove(worker)
            self.next_expiry = -math.inf
            self._assign_queued()
            self._signal_if_idle()
        self.notify_waiters()

    def retire_idle(self, worker: Worker) -> bool:
        """Let a worker go that has parked for long enough; False when it was given a task just now."""
        with self.lock:
            left = self.worker_set.retire_idle(worker)
            self._signal_if_idle()
            return left

    def worker_failed(self, worker: Worker) -> Task | None:
        """Strike out a worker whose loop never came up or broke down.

        Returns the task it was given and had not ended, counted as dropped by now.
        """
        with self.lock:
            unfinished, task = worker.counts_as_running, worker.task
            if unfinished and task is not None:
                self._drop(task, Reason.SHUTDOWN, worker)
            self.worker_set.remove(worker)
            self.use_freed_slot()
        self.notify_waiters()
        return task if unfinished else None

    def drop_assigned(self, worker: Worker, task: Task, reason: Reason) -> None:
        """Count a task as dropped that was given to ``worker``, which is not to run it."""
        with self.lock:
            self._drop(task, reason, worker)
            self.use_freed_slot()
        self.notify_waiters()

    # The owner's side.

    def pause(self) -> None:
        """Let running tasks finish and start no other. A pool that drains is past pausing."""
        with self.lock:
            self.paused = self.state is State.OPEN

    def resume(self) -> int:
        """Start tasks again; returns how many loops are to be started for those that wait."""
        with self.lock:
            self.paused = False
            missing = self._assign_queued()
        self.notify_waiters()
        return missing

    def resize(self, workers: int, prefetch: int = 0) -> int:
        """Set how many tasks may run at once; returns how many loops are to be started."""
        with self.lock:
            missing = self._resize(workers, prefetch)
        self.notify_waiters()
        return missing

    def set_prefetch(self, prefetch: Callable[[int], int]) -> int:
        """Set how many are taken beyond those, which it is told; returns how many loops are to be started."""
        with self.lock:
            workers = self.workers()
            missing = self._resize(workers, prefetch(workers))
        self.notify_waiters()
        return missing

    def start_draining(self) -> int:
        """Begin to drain: nobody is let in any more. Returns how many loops are to be started."""
        with self.lock:
            if self.state is State.OPEN:
                at_close = self.counters.finished_and_dropped()
                self.state, self.ended_at_close = State.DRAINING, at_close
            self.waiters.reject_all()
            self.paused = False
            missing = self._assign_queued()
            self._signal_if_idle()
        self.notify_waiters()
        return missing

    def repair(self) -> int:
        """Finish what an interrupted step has left; returns how many loops are to be started.

        The watchdog calls it at each tick, and whoever was interrupted does so at once.
        """
        with self.lock:
            self.worker_set.recount()
            missing = 0
            if self.state is not State.STOPPED:
                if self.state is State.DRAINING:
                    self.waiters.reject_all()
                self.worker_set.retire_parked(self.worker_set.surplus())
                missing = self._assign_queued()
            else:
                self.worker_set.retire_parked(self.worker_set.parked.length)
            self._signal_if_idle()
            for worker in list(self.worker_set.workers):
                if worker.task is not None and worker.started is None and worker.counts_as_running:
                    # It may have been notified already. It is woken for nothing then, and looks again.
                    worker.notify_again()
        self.notify_waiters()
        return missing

    def is_idle(self) -> bool:
        """Tell whether nothing is queued or running and no worker is on its way."""
        with self.lock:
            return self._has_no_work()

    def expired(self, now: float) -> list[Task]:
        """Return the queued tasks whose deadline has passed; looks at none before one can have."""
        with self.lock:
            if now < self.next_expiry:
                return []
            ends = [(task.expires_at, task) for task in self.queue.snapshot() if task.expires_at is not None]
            expired = [task for end, task in ends if end <= now]
            if not expired:  # else it looks again: whoever asked may be kept from dropping them
                self.next_expiry = min((end for end, _ in ends), default=math.inf)
            return expired

    def drop_queued(self, reason: Reason) -> list[Task]:
        """Take every task out for good that no worker has begun, counted as dropped."""
        with self.lock:
            tasks = self._cancel_requeued(reason)
            self._requeue_all_ahead()
            while (task := self.queue.first()) is not None:
                self._drop(task, reason)
                tasks.append(task)
            self._signal_if_idle()
        return tasks

    def retire_workers(self) -> list[Worker]:
        """End the draining: parked workers go. Returns those that are still busy."""
        with self.lock:
            self.state = State.STOPPED
            self.worker_set.retire_parked(self.worker_set.parked.length)
            busy = [one for one in self.worker_set.workers if one.ident is not None or one.task is not None]
        self.notify_waiters()
        return busy

    def notify_waiters(self) -> None:
        """Do what has come of a step, now that the lock is released."""
        if self.waiters.to_notify.length:
            self.waiters.notify()
        if self.after_notify is not None:
            self.after_notify()

    def workers(self) -> int:
        """Return how many tasks may run at once."""
        return self._workers

    def occupancy(self) -> Occupancy:
        """Where the unfinished tasks are. The lock is held.

        A task for which a worker is on its way counts as running, just as one handed to a parked
        worker does: it has left the queue's bound.
        """
        slots = self._slots()
        in_flight = self.in_flight
        queued = min(self.queue_capacity, max(0, in_flight - (slots - self.queue_capacity)))
        return Occupancy(queued, in_flight - queued)

    # What they share. The lock is held in all of these.

    @property
    def in_flight(self) -> int:
        """Tasks admitted and not ended: queued, given to a worker, or run by their own waiter."""
        return self.queue.length + self.worker_set.running + self.inline

    def _slots(self) -> int:
        """Return how many tasks may be in flight: the queue's capacity, and one for each worker there is.

        A paused pool counts the busy ones alone; one made smaller, all that are still busy.
        """
        there = 0 if self.paused else min(len(self.worker_set.workers), self._workers)
        return self.queue_capacity + max(there, self._busy())

    def _busy(self) -> int:
        """Return how many tasks run; what is handed over beyond the workers waits in the backend."""
        running = self.worker_set.running - self.worker_set.ahead
        over = running - self._workers
        if over <= 0:
            return running
        return running - min(over, self.prefetch if over <= self.prefetch else self._ahead)

    def _drop(self, task: Task, reason: Reason, worker: Worker | None = None) -> None:
        """Move a task from the queue, or from ``worker``, to those that are unsettled, counted as dropped."""
        unsettled = self.unsettled
        dropped, length = self.counters.dropped[reason] + 1, unsettled.length + 1
        if worker is None:
            self.queue.discard(task)
        else:
            self.worker_set.release(worker)
        # No call from here on.
        task.dropped = reason
        last = task.prev = unsettled.last
        last.next = unsettled.last = task
        unsettled.length = length
        self.counters.dropped[reason] = dropped

    def _cancel_requeued(self, reason: Reason) -> list[Task]:
        """Strike out the workers that wait for their turn in a shared backend; return their tasks."""
        tasks = []
        for worker in [worker for worker in self.worker_set.workers if worker.requeue_ticket is not None]:
            task, worker.requeue_ticket = worker.task, None
            if task is not None:
                self._drop(task, reason, worker)
                tasks.append(task)
            worker.task = None
            self.worker_set.retire(worker)
        return tasks

    def _admit_waiters(self) -> None:
        """Let waiters in while there are slots."""
        while self.waiters.length and self.in_flight < self._slots():
            waiter = self.waiters.first()
            if waiter is not None and waiter.task.expires_at is not None:
                self.next_expiry = min(self.next_expiry, waiter.task.expires_at)
            self.waiters.admit(self.queue)

    def _resize(self, workers: int, prefetch: int) -> int:
        prefetch = min(prefetch, self.queue_capacity)
        # What a worker process has been given ahead is taken back by whoever gave it.
        handed = self.worker_set.running - self.worker_set.ahead
        most, ahead = workers + prefetch, max(prefetch, handed - self._busy())
        self._workers, self.prefetch, self._ahead, self.worker_set.max_workers = (
            workers,
            prefetch,
            ahead,
            most,
        )
        self.worker_set.retire_parked(self.worker_set.surplus())
        return self._assign_queued()

    def _assign_queued(self) -> int:
        """Give parked workers what waits; return how many loops are to be started for the rest."""
        self._admit_waiters()
        if self.paused:
            return 0
        worker_set = self.worker_set
        while worker_set.parked.length and self.queue.length:
            worker_set.assign_parked(self.queue)
            self._admit_waiters()
        wanted = self.queue.length + self.waiters.length - worker_set.starting
        return max(0, min(worker_set.max_workers - len(worker_set.workers), wanted))

    def use_freed_slot(self) -> None:
        """Give a place that has become free to whoever waits for one. The lock is held.

        Whoever calls it calls `tell` once the lock is released.
        """
        if self.waiters.length:
            self._assign_queued()
        if self.state is not State.OPEN:
            self._signal_if_idle()

    def _signal_if_idle(self) -> None:
        if self.state is not State.OPEN and self._has_no_work():
            self.idle_signal.put(None)

    def _has_no_work(self) -> bool:
        return not (self.worker_set.running or self.inline or self.queue.length or self.worker_set.any_out())
