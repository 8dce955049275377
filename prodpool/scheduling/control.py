"""What the pool's owner, the stop and the watchdog ask of the dispatcher."""

from __future__ import annotations

import math
from collections.abc import Callable

from prodpool.scheduling.pool_state import PoolState
from prodpool.scheduling.wait_queue import IdleWaiter
from prodpool.scheduling.worker import Worker
from prodpool.task.outcomes import LossCause, Reason, State
from prodpool.task.task import Task


class PoolControl(PoolState):
    """Pausing, resizing, draining and repairing one pool."""

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
        """Set how many tasks are sent beyond those that may run; return how many loops are to be started."""
        with self.lock:
            workers = self.workers()
            missing = self._resize(workers, prefetch(workers))
        self.notify_waiters()
        return missing

    def start_draining(self) -> int:
        """Begin to drain: refuse new tasks. Returns how many loops are to be started."""
        with self.lock:
            if self.state is State.OPEN:
                at_close = self.counters.finished_and_dropped()
                self.idle_wanted = True
                self.state, self.ended_at_close = State.DRAINING, at_close
            self.waiters.reject_all()
            self.paused = False
            missing = self._assign_queued()
            self._signal_if_idle()
        self.notify_waiters()
        return missing

    def repair(self) -> int:
        """Finish what an interrupted step has left; returns how many loops are to be started.

        The watchdog calls it at each tick, and an interrupted call does so at once.
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

    def add_idle_waiter(self, waiter: IdleWaiter) -> bool:
        """Have ``waiter`` notified once nothing is queued or running; False if that is so now."""
        with self.lock:
            if self._has_no_work() and self._all_resolved():
                return False
            self.idle_wanted = True
            self.idle_waiters.push(waiter)
            return True

    def remove_idle_waiter(self, waiter: IdleWaiter) -> None:
        """Forget a waiter, whether it was notified or not."""
        with self.lock:
            if not waiter.idle:  # else it is in another list, or in none
                self.idle_waiters.discard(waiter)
            self.idle_wanted = self.state is not State.OPEN or self.idle_waiters.length > 0

    def expired(self, now: float) -> list[Task]:
        """Return the queued tasks whose deadline has passed; looks at none before one can have."""
        with self.lock:
            if now < self.next_expiry:
                return []
            ends = [(task.expires_at, task) for task in self.queue.snapshot() if task.expires_at is not None]
            expired = [task for end, task in ends if end <= now]
            if not expired:  # else it looks again: the caller may be kept from dropping them
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
        self.notify_idle_waiters()
        return tasks

    def count_abandoned(self) -> None:
        """Count a task whose future a stop has ended while it still ran."""
        with self.lock:
            self.counters.abandoned += 1

    def count_worker_started(self) -> None:
        """Count a thread, or a worker process, that has come to run tasks of the pool."""
        with self.lock:
            self.counters.workers_started += 1

    def count_worker_lost(self, cause: LossCause) -> None:
        """Count a worker that has ended and was not ended by the pool."""
        with self.lock:
            self.counters.workers_lost[cause] += 1

    def retire_workers(self) -> list[Worker]:
        """End the draining: parked workers go. Returns those that are still busy."""
        with self.lock:
            self.state = State.STOPPED
            self.worker_set.retire_parked(self.worker_set.parked.length)
            busy = [one for one in self.worker_set.workers if one.ident is not None or one.task is not None]
        self.notify_waiters()
        return busy

    def _resize(self, workers: int, prefetch: int) -> int:
        prefetch = min(prefetch, self.queue_capacity)
        # `CallSender` takes back what a worker process was sent ahead.
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

    def _cancel_requeued(self, reason: Reason) -> list[Task]:
        """Remove the workers that wait for their turn in a shared backend; return their tasks."""
        tasks = []
        for worker in [worker for worker in self.worker_set.workers if worker.requeue_ticket is not None]:
            task, worker.requeue_ticket = worker.task, None
            if task is not None:
                self._drop(task, reason, worker)
                tasks.append(task)
            worker.task = None
            self.worker_set.retire(worker)
        return tasks
