"""A place in the window: what one worker of a backend is to the dispatcher."""

from __future__ import annotations

import time
from collections.abc import Callable

from prodpool.worker import Worker
from prodpool.workers.beacon import Beacon, Sighting


class Seat(Worker):
    """The record of one task that is handed over at a time.

    Args:
        pool: The pool's name.
        now: The pool's clock.
        index: Which seat of the pool it is, from 0.
        beacon: Where the worker process of its task says that it has begun; None where there is none.
    """

    __slots__ = ("_beacon", "_slot", "number", "since")

    def __init__(self, pool: str, now: Callable[[], float], index: int, beacon: Beacon | None) -> None:
        super().__init__(pool, now)
        self._beacon = beacon
        self._slot = 0 if beacon is None else index % beacon.slots
        # Of its task's hand-over, and when that was.
        self.number = 0
        self.since = 0.0

    @property
    def mark(self) -> tuple[str, int] | None:
        """Path of the beacon's file and the slot in it; None where the worker could not see it."""
        return None if self._beacon is None else (self._beacon.path, self._slot)

    def sighting(self) -> Sighting | None:
        """Return what is known of its task's run; None while that has not begun, or cannot be known."""
        return None if self._beacon is None else self._beacon.look(self._slot, self.number)

    def look(self) -> None:
        """Bring up to date since when its task really runs."""
        if self.started is not None and (sighting := self.sighting()) is not None:
            self.started = max(self.since, sighting.started + self.now() - time.monotonic())

    def request_cancel(self) -> None:
        """Ask its task to end, in whatever process that runs."""
        super().request_cancel()
        if self._beacon is not None:
            self._beacon.ask(self._slot, self.number)
