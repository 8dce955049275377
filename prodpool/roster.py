"""Who is there to run tasks: every worker loop of one pool, and which of them are free."""

from __future__ import annotations

from prodpool.task import Task
from prodpool.worker import Worker


class Roster:
    """The worker loops of one pool. A plain structure: the dispatcher's lock guards it.

    A loop is starting up, parked, running a task, or on its way back from one that has ended;
    ``workers`` holds them all, so ``starting + len(parked) + running <= len(workers)``.
    """

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        self.workers: set[Worker] = set()
        # Newest last and woken first, so that the oldest can expire.
        self.parked: list[Worker] = []
        self.starting = 0
        self.running = 0

    def coming(self) -> int:
        """Count the workers that will take a task without any other's ending first.

        They are starting up, or on their way back from a task that has ended (setting its result, making
        its done-callbacks). Whoever reads that result may well submit the next task before they are back.
        """
        # Not those that are surplus since the pool was made smaller: they take nothing they need not.
        return max(0, min(len(self.workers), self.max_workers) - len(self.parked) - self.running)

    def surplus(self) -> int:
        """Count the loops there are too many of, since the pool was made smaller."""
        return max(0, len(self.workers) - self.max_workers)

    def away(self) -> bool:
        """Tell whether a loop that is not starting up is not parked, for instance in a done-callback."""
        return len(self.workers) > len(self.parked) + self.starting

    def reserve(self, worker: Worker) -> bool:
        """Count ``worker`` in before its loop is started; False when there are enough by now."""
        if len(self.workers) >= self.max_workers:
            return False
        self.workers.add(worker)
        self.starting += 1
        return True

    def begin(self, worker: Worker) -> bool:
        """Note that a loop has come up; dismiss it (False) if it was struck out before that."""
        if worker not in self.workers:
            worker.dismissed = True
            return False
        self.starting -= 1
        return True

    def assign(self, worker: Worker, task: Task) -> None:
        """Give ``task`` to a worker that is parked (then take it off that list) or asks for one."""
        # The only call comes first: near the recursion limit it raises with nothing changed.
        task.future.begin()
        worker.parked = False
        worker.task = task
        worker.occupied = True
        self.running += 1

    def release(self, worker: Worker) -> None:
        """Give back the place of a task that has ended, before its worker is back."""
        if worker.occupied:
            worker.occupied = False
            self.running -= 1

    def wake_newest(self, task: Task) -> Worker:
        """Give ``task`` to the worker that parked last."""
        worker = self.parked[-1]
        self.assign(worker, task)
        self.parked.pop()
        return worker

    def park(self, worker: Worker) -> None:
        """Put a worker that asked for a task in vain among the free ones."""
        worker.parked = True
        self.parked.append(worker)

    def leave(self, worker: Worker) -> bool:
        """Strike out a parked worker; False when it was given a task just now."""
        if not worker.parked:
            return False
        worker.parked = False
        self.parked.remove(worker)
        self.workers.discard(worker)
        return True

    def lose(self, worker: Worker, *, began: bool) -> Task | None:
        """Strike out a worker whose loop never came up or broke down; return the task it held."""
        if worker not in self.workers:
            return None
        self.workers.discard(worker)
        if not began:
            self.starting -= 1
        task, worker.task = worker.task, None
        return task

    def dismiss(self, worker: Worker) -> None:
        """Send a worker away that is not parked."""
        worker.dismissed = True
        self.workers.discard(worker)

    def dismiss_parked(self, count: int) -> list[Worker]:
        """Send the ``count`` workers away that have been parked for longest; wake those returned."""
        gone, self.parked = self.parked[:count], self.parked[count:]
        for worker in gone:
            worker.parked = False
            self.dismiss(worker)
        return gone
