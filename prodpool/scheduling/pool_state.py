"""The state that the dispatcher's lock guards, and the steps that several of its methods share."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from prodpool.scheduling.linked_queue import LinkedQueue
from prodpool.scheduling.wait_queue import IdleWaiter, WaitQueue
from prodpool.scheduling.worker import Worker
from prodpool.scheduling.worker_set import WorkerSet
from prodpool.task.outcomes import Reason, State
from prodpool.task.task import Task
from prodpool.telemetry.counters import PoolCounters


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Where the admitted, unfinished tasks are at one moment."""

    queued: int
    running: int


class PoolState:
    """Tasks, workers and waiters of one pool. ``lock`` guards every field and every part of it.

    What is said in `dispatcher` about steps and interrupts holds here, too. The lock is held in every method
    but `workers` and `notify_waiters`.
    """

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
        self.queue: LinkedQueue[Task] = LinkedQueue()
        self.waiters = WaitQueue(counters, now, self.lock)
        self.worker_set = WorkerSet(workers + self.prefetch)
        # Tasks that are counted as dropped, until their futures are settled.
        self.unsettled: LinkedQueue[Task] = LinkedQueue()
        self.state = State.OPEN
        self.paused = False
        # No queued task expires before this second.
        self.next_expiry = math.inf
        # Queued tasks that their own waiter runs right now (see `claim_inline`); they keep their place.
        self.inline = 0
        # What had ended when the draining began; see `PoolCounters.finished_and_dropped`.
        self.ended_at_close = (0, 0)
        # Something is put here whenever a draining pool becomes idle; `is_idle` tells the truth. A
        # SimpleQueue and no Event, because a signal handler may put something as well.
        self.idle_signal: queue.SimpleQueue[None] = queue.SimpleQueue()
        # Those that wait until the pool is idle, draining or not.
        self.idle_waiters: LinkedQueue[IdleWaiter] = LinkedQueue()
        # Whether anyone is to be told when it is: a stop, or one of these. Each worker that parks asks.
        self.idle_wanted = False
        # What is to be done, without the lock, when workers were notified; None: nothing.
        self.after_notify: Callable[[], object] | None = None

    @property
    def in_flight(self) -> int:
        """Tasks admitted and not ended: queued, given to a worker, or run by their own waiter."""
        return self.queue.length + self.worker_set.running + self.inline

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

    def notify_waiters(self) -> None:
        """Notify the waiters that a step has admitted, now that the lock is released."""
        if self.waiters.to_notify.length:
            self.waiters.notify()
        if self.after_notify is not None:
            self.after_notify()

    def notify_idle_waiters(self) -> None:
        """Do so after a step that has given no worker a task."""
        if self.waiters.to_notify.length:
            self.waiters.notify()

    def use_freed_slot(self) -> None:
        """Give a place that has become free to the first that waits for one. The lock is held.

        The caller calls `notify_waiters` once the lock is released.
        """
        if self.waiters.length:
            self._assign_queued()
        if self.idle_wanted:
            self._signal_if_idle()

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

    def _admit_waiters(self) -> None:
        """Admit waiters while there are slots."""
        while self.waiters.length and self.in_flight < self._slots():
            waiter = self.waiters.first()
            if waiter is not None and waiter.task.expires_at is not None:
                self.next_expiry = min(self.next_expiry, waiter.task.expires_at)
            self.waiters.admit(self.queue)

    def _assign_queued(self) -> int:
        """Give parked workers the queued tasks; return how many loops are to be started for the rest."""
        self._admit_waiters()
        if self.paused:
            return 0
        worker_set = self.worker_set
        while worker_set.parked.length and self.queue.length:
            worker_set.assign_parked(self.queue)
            self._admit_waiters()
        # A loop that is coming up brings no place for a waiter: its place may be taken by a task run inline.
        wanted = max(0, self.queue.length - worker_set.starting) + self.waiters.length
        return max(0, min(worker_set.max_workers - len(worker_set.workers), wanted))

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

    def _signal_if_idle(self) -> None:
        """Tell those who wait for that if there is no work. The caller notifies them afterwards."""
        if not self.idle_wanted or not self._has_no_work():
            return
        if self.state is not State.OPEN:
            self.idle_signal.put(None)
        if self._all_resolved():
            self._release_idle_waiters()

    def _release_idle_waiters(self) -> None:
        to_notify = self.waiters.to_notify
        while (waiter := self.idle_waiters.next) is not None:
            notifiable = to_notify.length + 1
            self.idle_waiters.pop()
            # No call from here to the end of the move, as in `WaitQueue.reject_all`.
            waiter.idle = True
            last = waiter.prev = to_notify.last
            last.next = to_notify.last = waiter
            to_notify.length = notifiable

    def _all_resolved(self) -> bool:
        """Tell whether the futures of all dropped tasks have ended; their callbacks may still be made."""
        return all(task.future.done() for task in self.unsettled)

    def _has_no_work(self) -> bool:
        return not (self.worker_set.running or self.inline or self.queue.length or self.worker_set.any_out())
