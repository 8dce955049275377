"""How many tasks a backend has at a time, when some of them run in executors of their own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from prodpool.task import Task
from prodpool.workers.seat import Seat


class Handover(NamedTuple):
    """A task that is to be handed over, and its place in the window.

    ``limited``: it goes to an executor of its own, since it may have to be killed.
    """

    seat: Seat
    task: Task
    limited: bool


class Window:
    """Lets tasks through to the backend, or holds them until another has come home.

    A seat beyond the workers is for a task that the backend keeps waiting. While a task runs in an executor
    of its own, the backend itself has a worker free for that one as well: it would run, and one task too
    many with it. Then no more are let through than there are workers.
    """

    def __init__(self, workers: Callable[[], int]) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        # Guarded by _lock.
        self._out = 0
        self._limited = 0
        self._held: deque[Handover] = deque()

    def enter(self, handover: Handover) -> bool:
        """Tell whether it is to be handed over now; else it is among those that `leave` returns later."""
        with self._lock:
            if self._held or not self._fits(handover):
                self._held.append(handover)
                return False
            self._let_in(handover)
            return True

    def leave(self, *, limited: bool) -> list[Handover]:
        """Note that a task has come home; return those that are to be handed over now."""
        with self._lock:
            self._out -= 1
            self._limited -= limited
            return self._release()

    def refit(self) -> list[Handover]:
        """Return those that are to be handed over now because there are more workers."""
        with self._lock:
            return self._release()

    def give_up(self) -> list[Handover]:
        """Return those that are held, which will not be handed over."""
        with self._lock:
            held, self._held = list(self._held), deque()
            return held

    def _release(self) -> list[Handover]:
        released: list[Handover] = []
        while self._held and self._fits(self._held[0]):
            released.append(self._held.popleft())
            self._let_in(released[-1])
        return released

    def _fits(self, handover: Handover) -> bool:
        return self._out < self._workers() or not (handover.limited or self._limited)

    def _let_in(self, handover: Handover) -> None:
        self._out += 1
        self._limited += handover.limited
