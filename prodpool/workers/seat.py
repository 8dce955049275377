"""A place in the window: what one worker of a backend is to the dispatcher."""

from __future__ import annotations

import time
from collections.abc import Callable

from prodpool.worker import Worker
from prodpool.workers.beacon import Beacon, Sighting
from prodpool.workers.remote_stacks import RemoteStacks


class Seat(Worker):
    """The record of one task that is handed over at a time.

    Args:
        pool: The pool's name.
        now: The pool's clock.
        beacon: Where the worker process of its task says that it has begun; None where there is none.
        stacks: Where it can be asked for its stack; None likewise.
    """

    __slots__ = ("_beacon", "_stacks", "number", "since", "slot")

    def __init__(
        self,
        pool: str,
        now: Callable[[], float],
        beacon: Beacon | None,
        stacks: RemoteStacks | None,
    ) -> None:
        super().__init__(pool, now)
        self._beacon = beacon
        self._stacks = stacks
        # Its own among the beacon's while it is in the roster; None if there are more seats than slots.
        self.slot: int | None = None
        # Of its task's hand-over, and when that was; 0 while none is handed over.
        self.number = 0
        self.since = 0.0

    @property
    def mark(self) -> tuple[str, int] | None:
        """Path of the beacon's file and the slot in it; None where the worker could not see it."""
        return None if self._beacon is None or self.slot is None else (self._beacon.path, self.slot)

    def sighting(self) -> Sighting | None:
        """Return what is known of its task's run; None while that has not begun, or cannot be known."""
        if self._beacon is None or self.slot is None or not self.number:
            return None
        return self._beacon.look(self.slot, self.number)

    def began(self) -> float | None:
        """Return the second of the pool's clock at which its task began, if that was seen."""
        sighting = self.sighting()
        if sighting is None:
            return None
        return max(self.since, sighting.started + self.now() - time.monotonic())

    def stack(self) -> str:
        """Return where its task is right now, innermost frame last, or why that cannot be known."""
        if self._stacks is None:
            return "(no stack: only worker processes of this host can be asked for one)"
        sighting = self.sighting()
        return "(no stack: it has not begun)" if sighting is None else self._stacks.of(sighting.pid)

    def place(self) -> str:
        """Name the process that its task runs in, as far as that is known."""
        sighting = self.sighting()
        return "its backend" if sighting is None else f"process {sighting.pid}"

    def request_cancel(self) -> None:
        """Ask its task to end, in whatever process that runs."""
        super().request_cancel()
        if self._beacon is not None and self.slot is not None:
            self._beacon.ask(self.slot, self.number)
