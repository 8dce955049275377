"""The worker loops of one pool, and which of them are free."""

from __future__ import annotations

from prodpool.scheduling.linked_queue import LinkedQueue
from prodpool.scheduling.worker import Worker
from prodpool.task.future import PENDING, RUNNING
from prodpool.task.task import Task


class WorkerSet:
    """The worker loops of one pool. A plain structure: the dispatcher's lock guards it.

    A loop is starting up, parked, running a task, or on its way back from one that has ended;
    ``workers`` holds them all, so ``starting + len(parked) + running - ahead <= len(workers)``. ``running``
    counts all tasks that workers were given, ``ahead`` those of them that are to run after another one. The
    numbers follow from the marks of the workers (``reserved``, ``begun``, ``counts_as_running``,
    ``ahead``), see `recount`.

    Each step is a run of stores without a call in between, as those of `LinkedQueue` are.
    """

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        self.workers: set[Worker] = set()
        # Newest last and woken first, so that the oldest can expire.
        self.parked: LinkedQueue[Worker] = LinkedQueue()
        self.starting = 0
        self.running = 0
        self.ahead = 0

    def surplus(self) -> int:
        """Count the loops there are too many of, since the pool was made smaller."""
        return max(0, len(self.workers) - self.max_workers)

    def any_out(self) -> bool:
        """Tell whether a loop that is not starting up is not parked, for instance in a done-callback."""
        return len(self.workers) > self.parked.length + self.starting

    def add_starting(self, worker: Worker) -> bool:
        """Count ``worker`` in before its loop is started; False when there are enough by now."""
        if len(self.workers) >= self.max_workers:
            return False
        self.workers.add(worker)
        starting = self.starting + 1
        worker.reserved = True
        self.starting = starting
        return True

    def mark_started(self, worker: Worker) -> bool:
        """Note that a loop has started; dismiss it (False) if it was removed before that."""
        if worker not in self.workers:
            worker.dismissed = True
            return False
        if not worker.begun:
            starting = self.starting - 1
            worker.begun = True
            self.starting = starting
        return True

    def assign(self, worker: Worker, queue: LinkedQueue[Task]) -> Task:
        """Give the first task of ``queue`` to ``worker`` and return it."""
        task: Task = queue.next
        running, length = self.running + 1, queue.length - 1
        after = queue.next = task.next
        if after is None:
            queue.last = queue
        else:
            after.prev = queue
            task.next = None
        task.prev = None
        queue.length = length
        worker.task = task
        worker.counts_as_running = True
        self.running = running
        task.future._state = RUNNING  # noqa: SLF001  # `begin` would be a call
        return task

    def assign_ahead(self, worker: Worker, queue: LinkedQueue[Task]) -> bool:
        """Give ``worker`` the first task of ``queue``, to run it after those that it has.

        False if there is none, or it has a run-time limit: its worker may have to be killed, and what waits
        behind it would be moved.
        """
        given, task = worker.ahead, queue.next
        if task is None or task.options.timeout is not None:
            return False
        assert given is not None  # noqa: S101  # else it is given one at a time
        given.append(task)
        # That was a call, which may have let a finalizer in, and memory may be short: look again.
        try:
            running, ahead, length = self.running + 1, self.ahead + 1, queue.length - 1
        except MemoryError:
            given.pop()
            raise
        if queue.next is not task:
            given.pop()
            return self.assign_ahead(worker, queue)
        # No call from here on, as in `LinkedQueue.pop`.
        after = queue.next = task.next
        if after is None:
            queue.last = queue
        else:
            after.prev = queue
            task.next = None
        task.prev = None
        queue.length = length
        self.running = running
        self.ahead = ahead
        task.future._state = RUNNING  # noqa: SLF001  # `begin` would be a call
        return True

    def promote(self, worker: Worker) -> Task:
        """Have a worker whose task has ended run the next of those that it was given ahead; return that."""
        given = worker.ahead
        assert given is not None  # noqa: S101  # the caller has looked
        ahead = self.ahead - 1
        task = given[0]
        worker.task = task
        worker.counts_as_running = True
        self.ahead = ahead
        given.popleft()  # the one call, and the last: see above
        return task

    def demote(self, worker: Worker) -> None:
        """Count the task of a worker that has not begun it as the first of those that it was given ahead."""
        given, task = worker.ahead, worker.task
        assert given is not None  # noqa: S101  # likewise
        if task is None or not worker.counts_as_running:
            return
        ahead = self.ahead + 1
        given.appendleft(task)  # the one call, and the first: it may want memory
        worker.task = None
        worker.counts_as_running = False
        self.ahead = ahead

    def requeue(self, worker: Worker, queue: LinkedQueue[Task]) -> Task:
        """Put the last task that a worker was given ahead back at the head of ``queue``; return that."""
        given = worker.ahead
        assert given is not None  # noqa: S101  # likewise
        running, ahead, length = self.running - 1, self.ahead - 1, queue.length + 1
        task, after = given[-1], queue.next
        # No call from here on, as in `LinkedQueue.push`.
        task.next = after
        task.prev = queue
        if after is None:
            queue.last = task
        else:
            after.prev = task
        queue.next = task
        queue.length = length
        self.running = running
        self.ahead = ahead
        task.future._state = PENDING  # noqa: SLF001
        given.pop()  # the one call, and the last
        return task

    def assign_parked(self, queue: LinkedQueue[Task]) -> None:
        """Give the first task of ``queue`` to the worker that parked last, and wake it."""
        parked, worker = self.parked, self.parked.last
        free = parked.length - 1
        before = worker.prev
        # The one call, which pops the task; nothing else comes between it and the end.
        self.assign(worker, queue)
        parked.last = before
        before.next = worker.prev = None
        parked.length = free
        try:  # noqa: SIM105  # a context manager would be a call
            worker.notify()
        except RuntimeError:  # `Dispatcher.repair` has notified it before
            pass

    def release(self, worker: Worker) -> None:
        """Give back the place of a task that has ended, before its worker is back."""
        if worker.counts_as_running:
            running = self.running - 1
            worker.counts_as_running = False
            self.running = running

    def retire_idle(self, worker: Worker) -> bool:
        """Remove a parked worker; False when it was given a task just now."""
        if not self.parked.discard(worker):
            return False
        self.workers.discard(worker)
        return True

    def remove(self, worker: Worker) -> Task | None:
        """Remove a worker whose loop never started or broke down; return the task it held."""
        if worker not in self.workers:
            return None
        self.parked.discard(worker)
        if worker.reserved and not worker.begun:
            starting = self.starting - 1
            worker.begun = True
            self.starting = starting
        task, worker.task = worker.task, None
        self.workers.discard(worker)
        return task

    def retire(self, worker: Worker) -> None:
        """Dismiss a worker that is not parked."""
        worker.dismissed = True
        self.workers.discard(worker)

    def retire_parked(self, count: int) -> None:
        """Dismiss the ``count`` workers that have been parked for longest."""
        while count > 0 and (worker := self.parked.first()) is not None:
            left = count - 1
            self.parked.discard(worker)
            worker.dismissed = True
            try:  # noqa: SIM105  # a context manager would be a call
                worker.notify()
            except RuntimeError:  # likewise
                pass
            self.workers.discard(worker)
            count = left

    def recount(self) -> None:
        """Count the workers anew by their marks, and remove those that are not counted."""
        self.workers -= {worker for worker in self.workers if worker.dismissed or not worker.reserved}
        workers = list(self.workers)
        starting = sum(worker.reserved and not worker.begun for worker in workers)
        ahead = sum(len(worker.ahead) for worker in workers if worker.ahead)
        running = sum(worker.counts_as_running for worker in workers) + ahead
        self.starting, self.running, self.ahead = starting, running, ahead
