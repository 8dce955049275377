"""One lock and what it guards: which task waits, which worker is free, who gets what next.

Nothing here calls out while the lock is held. The consequences of a state change (a waiter to notify,
a loop to start, a log line) are returned, or left in ``waiters.to_notify``, for the caller to do afterwards.

A signal handler may raise, garbage may be collected and an allocation may fail at any call. Therefore each
step first looks and reckons, and then changes the state in a run of stores without a call in between; what
must follow (a worker to be woken) is the last act of the run, still under the lock. So an interrupt finds
a step either not begun or done, and may use the pool there: the lock is reentrant. `repair` does what is
left undone between two steps.

Invariants, while the pool is not paused:
- a task waits only when no worker is parked;
- ``queued <= queue_capacity``, not counting one task for each worker that is on its way to take it.
"""

from __future__ import annotations

import math
from enum import Enum, auto

from prodpool.scheduling.control import PoolControl
from prodpool.scheduling.wait_queue import Waiter
from prodpool.scheduling.worker import Worker
from prodpool.task.future import RUNNING
from prodpool.task.outcomes import Reason, State
from prodpool.task.task import Task

# Up to 3.11 to name a member of an enum is a call: this one is asked for with each task.
OPEN = State.OPEN


class Admission(Enum):
    """The dispatcher's answer to a task that was offered."""

    ADMITTED = auto()
    NEEDS_WORKER = auto()
    FULL = auto()
    WAITING = auto()
    CLOSED = auto()


class Dispatcher(PoolControl):
    """Matches tasks with workers."""

    # The submitter's side.

    def try_admit(  # noqa: C901  # one step, in one piece
        self, task: Task, waiter: Waiter | None = None, *, may_start: bool = True
    ) -> Admission:
        """Admit ``task`` if there is a worker or a place for it; if not, queue its waiter, if it has one.

        NEEDS_WORKER: a loop may be started for it; reserve and start one, then offer again.
        ``may_start`` is False where that has been tried in vain: answered only when no loop is left at all.
        """
        queue, worker_set, counters = self.queue, self.worker_set, self.counters
        parked = worker_set.parked
        with self.lock:
            loops = len(worker_set.workers)
            if self.state is not OPEN:
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
                    before = parked.last = newest.prev
                    before.next = newest.prev = None
                    parked.length = free
                    newest.task = task
                    newest.counts_as_running = True
                    worker_set.running = running
                    task.future._state = RUNNING  # noqa: SLF001  # `begin` would be a call
                    counters.submitted = submitted
                    try:  # noqa: SIM105  # a context manager would be a call
                        newest.notify()
                    except RuntimeError:  # `repair` has notified it before
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
        """Remove a waiter; False if it has been notified, or is about to be."""
        with self.lock:
            return self.waiters.remove(waiter)

    def count_rejection(self, reason: Reason) -> None:
        """Count one task that was refused."""
        with self.lock:
            self.counters.dropped[reason] += 1

    def count_expired_in_wait(self) -> None:
        """Count a task whose deadline passed before it was admitted: as one that was admitted and expired."""
        reason, counters = Reason.EXPIRED, self.counters
        dropped = counters.dropped
        with self.lock:
            submitted, expired = counters.submitted + 1, dropped[reason] + 1
            counters.submitted = submitted
            dropped[reason] = expired

    def discard(self, task: Task, reason: Reason) -> bool:
        """Take a queued task out for good and count it as dropped; False when it is not queued.

        It is ``unsettled`` until `mark_settled` is called.
        """
        with self.lock:
            if task.dropped is not None or task.prev is None:
                return False
            self._drop(task, reason)
            self.use_freed_slot()
        self.notify_waiters()
        return True

    def mark_settled(self, task: Task) -> None:
        """Note that a dropped task is settled: its future has ended and its callbacks were made."""
        with self.lock:
            self.unsettled.discard(task)
            if self.idle_wanted:
                self._signal_if_idle()
        self.notify_idle_waiters()

    def request_cancel(self, task: Task) -> None:
        """Ask a running task to end, also where it runs in a worker process of the pool's own."""
        task.request_cancel()
        for worker in tuple(self.worker_set.workers):
            worker.forward_cancel(task)

    def claim_inline(self, task: Task) -> bool:
        """Take a queued task out, to be run by the task that waits for it; False when it is not queued.

        It keeps its place (``inline``) until it is settled: the waiting worker runs one thing at a
        time, so counting it as a second running task would exceed ``max_workers``.
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
                # The place that comes with it is for the first waiter, whose task a parked worker may take.
                self._assign_queued()
        self.notify_waiters()
        return reserved

    def start_failed(self, worker: Worker) -> None:
        """Remove a reserved worker, unless its loop has started after all."""
        with self.lock:
            if not worker.begun:
                self.worker_set.remove(worker)
            self._signal_if_idle()
        self.notify_idle_waiters()

    def mark_started(self, worker: Worker) -> Task | None:
        """Give a loop that has just started its first task; dismiss it if it was removed before that."""
        with self.lock:
            task = self.next_task(worker) if self.worker_set.mark_started(worker) else None
        self.notify_waiters()
        return task

    def next_task(self, worker: Worker) -> Task | None:
        """Give ``worker`` the next task, or park it, or dismiss it. The lock is held.

        The caller calls `notify_waiters` once the lock is released.
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
        # The caller still holds the task that it had: nothing is freed by this.
        worker.task = None
        if surplus or self.state is State.STOPPED:
            worker_set.retire(worker)
        else:
            free = worker_set.parked.length + 1
            # No call from here on, as in `LinkedQueue.push`.
            last = worker.prev = worker_set.parked.last
            last.next = worker_set.parked.last = worker
            worker_set.parked.length = free
        if self.idle_wanted:
            self._signal_if_idle()
        return None

    def assign_ahead(self, worker: Worker, most: int) -> int:
        """Give ``worker`` up to ``most`` tasks to run after its own; returns how many."""
        count = 0
        with self.lock:
            worker_set, queue = self.worker_set, self.queue
            if self.paused or worker_set.surplus() or self.state is State.STOPPED:
                return 0
            while count < most and worker_set.assign_ahead(worker, queue):
                count += 1
        return count

    def requeue_ahead(self, worker: Worker, *, sent: bool = True) -> int:
        """Put the tasks back in the queue that ``worker`` was given ahead and has not begun, or was not sent.

        Returns how many loops are to be started.
        """
        with self.lock:
            self._requeue_ahead(worker, sent=sent)
            missing = self._assign_queued()
        self.notify_waiters()
        return missing

    def requeue_all_ahead(self) -> int:
        """Do so for the tasks that any worker was given ahead and has not begun."""
        with self.lock:
            self._requeue_all_ahead()
            missing = self._assign_queued()
        self.notify_waiters()
        return missing

    def remove_lost(self, worker: Worker) -> None:
        """Remove a worker whose process is gone, and requeue the tasks that it has not begun."""
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
        """Retire a worker that has parked for long enough; False when it was given a task just now."""
        with self.lock:
            left = self.worker_set.retire_idle(worker)
            self._signal_if_idle()
        self.notify_idle_waiters()
        return left

    def worker_failed(self, worker: Worker) -> Task | None:
        """Remove a worker whose loop never started or broke down.

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
