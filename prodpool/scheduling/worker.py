"""One worker: what it runs, since when, and the lock it parks on."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ClassVar

from prodpool.task.task import Task
from prodpool.telemetry.tracebacks import render_frame


@dataclass(frozen=True, slots=True)
class Activity:
    """What a worker does at one moment.

    Attributes:
        tasks: Its task and those it runs inside that one, innermost last; empty if they ended just now.
        names: What each of them is called; the last may be a done-callback.
        since: Monotonic second at which the outermost began.
        place: Name of its thread or process.
        stack: Where that is, innermost frame last, or why it cannot be known.
    """

    tasks: Sequence[Task]
    names: Sequence[str]
    since: float
    location: str
    stack: str


def stack_of_thread(ident: int | None) -> str:
    """Return where a thread is right now, innermost frame last, or why that cannot be known."""
    # sys._current_frames is documented API of the sys module, underscore and all.
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001
    try:
        return "(no stack: the thread is gone)" if frame is None else render_frame(frame)
    finally:
        # A frame kept alive keeps its locals alive, the task's arguments among them.
        del frame


class Worker:
    """The record of one worker loop. Read by the watchdog and by scrapes, written by its own thread.

    ``task`` is assigned under the dispatcher's lock, by the worker itself or by the submitter that
    wakes it. ``started`` is the monotonic second at which the task began, None while none runs.
    """

    __slots__ = (
        "ahead",
        "inline_tasks",
        "begun",
        "next",
        "calling_back",
        "dismissed",
        "ident",
        "loop_future",
        "next_warning",
        "notify",
        "now",
        "counts_as_running",
        "replaced",
        "pool",
        "prev",
        "reserved",
        "started",
        "task",
        "requeue_ticket",
        "wake",
    )

    # Whether its task runs in another process, whose stack takes time to read.
    remote: ClassVar[bool] = False

    def __init__(self, pool: str, now: Callable[[], float]) -> None:
        self.pool = pool
        self.now = now
        self.task: Task | None = None
        self.started: float | None = None
        # Whether it counts among the running; it does from the moment it is given a task until that is
        # counted as ended. Guarded by the dispatcher's lock.
        self.counts_as_running = False
        # Tasks that it has been given beyond ``task``, for a worker process that runs them in this order;
        # None where that cannot be. Guarded likewise.
        self.ahead: deque[Task] | None = None
        # Tasks that are waited for and therefore run here on top of ``task``, each inside the one before.
        self.inline_tasks: list[Task] = []
        # Seconds of running after which the watchdog speaks (again); None: at its first threshold.
        self.next_warning: float | None = None
        # What the thread was before it became this stand-in (a task run by its caller).
        self.replaced: Worker | None = None
        # Links of the list of parked workers; ``queued`` is None while it is not in there.
        self.prev: Any = None
        self.next: Any = None
        # Whether it is counted among the pool's, and whether its loop has come up. Guarded likewise.
        self.reserved = False
        self.begun = False
        self.dismissed = False
        # Since when, and in which thread, the done-callbacks of its last task are being made.
        self.calling_back: tuple[float, int] | None = None
        self.ident: int | None = None
        self.loop_future: Future[Any] | None = None
        # The ticket of a loop that waits for its turn in a shared backend; see `LeasedWorkers`.
        self.requeue_ticket: object = None
        # A raw lock, not an Event: parking and waking cost one operation each.
        self.wake = threading.Lock()
        self.wake.acquire()
        # Wakes it after it was given a task or retired, under the dispatcher's lock: one call
        # of a function in C, so that nothing can come between a task that is given and its being known.
        self.notify: Callable[[], object] = self.wake.release

    def stack(self) -> str:
        """Return where its task is right now, innermost frame last, or why that cannot be known."""
        return stack_of_thread(self.ident)

    def notify_again(self) -> None:
        """Wake the worker once more, in case it was not woken; one that is awake only checks again."""
        if self.wake.locked():
            self.notify()

    def busy_since(self) -> float | None:
        """Return the monotonic second since which its task or that task's callbacks run; None: neither."""
        calling_back = self.calling_back
        return self.started if calling_back is None else calling_back[0]

    def activity(self) -> Activity | None:
        """Return what the worker does right now; None when it is free."""
        calling_back, started, tasks = self.calling_back, self.started, self.tasks()
        names = [task.name for task in tasks]
        if calling_back is not None and tasks:
            names[-1] = f"a done-callback of {names[-1]}"
            since, ident = calling_back
            return Activity(tasks, names, since, f"thread {ident}", stack_of_thread(ident))
        return None if started is None else Activity(tasks, names, started, self.location(), self.stack())

    def location(self) -> str:
        """Name the thread that its task runs in."""
        return f"thread {self.ident}"

    def request_cancel(self) -> None:
        """Ask the running task to end."""
        for task in self.tasks():
            task.request_cancel()

    def forward_cancel(self, task: Task) -> None:
        """Tell the process in which ``task`` runs that it is to end, if this worker is one and runs it."""

    def withdraw_ahead(self, *, sent: bool) -> int:  # noqa: ARG002
        """Withdraw the tasks that it was given ahead and has not begun; return how many these last ones are.

        With ``sent`` False, only from what was not even sent. The dispatcher's lock is held; the caller puts
        them back in the queue.
        """
        return 0

    def tasks(self) -> list[Task]:
        """Return the task it was given and those it runs inside that one, innermost last."""
        task = self.task
        return ([] if task is None else [task]) + self.inline_tasks
