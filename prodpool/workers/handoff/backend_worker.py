"""What one task that was sent to a backend is to the dispatcher: a worker."""

from __future__ import annotations

from collections.abc import Callable

from prodpool.scheduling.worker import Worker


class BackendWorker(Worker):
    """A worker that sends one task at a time to the backend.

    Args:
        pool: The pool's name.
        now: The pool's clock.
    """

    __slots__ = ("at_backend", "sent_at")

    def __init__(self, pool: str, now: Callable[[], float]) -> None:
        super().__init__(pool, now)
        # Whether its task is with the backend, and since when.
        self.at_backend = False
        self.sent_at = 0.0

    def mark_sent(self, now: float) -> None:
        """Note that its task is sent."""
        self.sent_at, self.at_backend = now, True

    def mark_returned(self) -> None:
        """Note that its task is not with the backend (any more)."""
        self.at_backend = False

    def notify_again(self) -> None:
        """Do nothing: a worker with a task is listed until that is sent, and must not be listed twice."""

    def stack(self) -> str:
        """Return where its task is, if it runs in a thread of this process; else why that cannot be known."""
        if self.ident is not None:
            return super().stack()
        return "(no stack: only worker processes of the pool's own can be asked for one)"

    def location(self) -> str:
        """Name where its task runs, as far as that is known."""
        return "its backend" if self.ident is None else super().location()
