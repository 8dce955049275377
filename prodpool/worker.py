"""One worker: what it runs, since when, and the lock it parks on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from prodpool.task import Task
from prodpool.telemetry.stacks import render_frame


class Worker:
    """The record of one worker loop. Read by the watchdog and by scrapes, written by its own thread.

    ``task`` is assigned under the dispatcher's lock, by the worker itself or by the submitter that
    wakes it. ``started`` is the monotonic second at which the task began, None while none runs.
    """

    __slots__ = (
        "assisting",
        "dismissed",
        "go",
        "ident",
        "lease",
        "next_warning",
        "now",
        "occupied",
        "outer",
        "parked",
        "pool",
        "started",
        "task",
        "turn",
        "wake",
    )

    def __init__(self, pool: str, now: Callable[[], float]) -> None:
        self.pool = pool
        self.now = now
        self.task: Task | None = None
        self.started: float | None = None
        # Whether it counts among the running; it does from the moment it is given a task until that is
        # counted as ended. Guarded by the dispatcher's lock.
        self.occupied = False
        # Tasks that are waited for and therefore run here on top of ``task``, each inside the one before.
        self.assisting: list[Task] = []
        # Seconds of running after which the watchdog speaks (again); None: at its first threshold.
        self.next_warning: float | None = None
        # What the thread was before it became this stand-in (a task run by its caller).
        self.outer: Worker | None = None
        self.parked = False
        self.dismissed = False
        self.ident: int | None = None
        self.lease: Future[Any] | None = None
        # The ticket of a loop that waits for its turn in a shared backend; see `LeasedWorkers`.
        self.turn: object = None
        # A raw lock, not an Event: parking and waking cost one operation each.
        self.wake = threading.Lock()
        self.wake.acquire()
        # How whoever gave it a task, or dismissed it, sets it going; no lock is held then.
        self.go: Callable[[], None] = self.wake.release

    def stack(self) -> str:
        """Return where its thread is right now, innermost frame last, or why that cannot be known."""
        # sys._current_frames is documented API of the sys module, underscore and all.
        frame = sys._current_frames().get(self.ident or 0)  # noqa: SLF001
        try:
            return "(no stack: the thread is gone)" if frame is None else render_frame(frame)
        finally:
            # A frame kept alive keeps its locals alive, the task's arguments among them.
            del frame

    def place(self) -> str:
        """Name the thread that its task runs in."""
        return f"thread {self.ident}"

    def request_cancel(self) -> None:
        """Ask what it runs to end."""
        for task in self.tasks():
            task.request_cancel()

    def tasks(self) -> list[Task]:
        """Return the task it was given and those it runs inside that one, innermost last."""
        task = self.task
        return ([] if task is None else [task]) + self.assisting
