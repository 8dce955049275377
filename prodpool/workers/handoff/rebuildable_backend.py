"""The backend in use, and the next one when it breaks."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeGuard

from prodpool.workers.base import SupportsSubmit, shut_down

# Seconds before a broken backend is built anew: doubled each time until a task has succeeded on one.
FIRST_DELAY = 0.1
MAX_DELAY = 30.0
# So many rebuilds within so many seconds without one success, and nothing more is tried.
MAX_REBUILDS = 5
REBUILD_PERIOD = 60.0

# Called with a number of workers, builds a backend of that many.
BackendFactory = Callable[[int], SupportsSubmit]


def is_factory(backend: object, max_workers: object) -> TypeGuard[BackendFactory]:
    """Tell whether ``backend`` is to be called with the number of workers to get one.

    A class is one where that number is given; without it, it is more likely a mistake.
    """
    if isinstance(backend, type):
        return max_workers is not None and callable(getattr(backend, "submit", None))
    return callable(backend) and not hasattr(backend, "submit")


class RebuildableBackend:
    """Holds the backend of one pool. Without a factory the first one is the last.

    Used by the loop thread alone, save for reading it, for `replace` and for `shutdown`.

    Args:
        backend: The first backend.
        factory: Builds the next one of so many workers; None where there is to be none.
        size: How many workers the first one has; None where that cannot be known.
        now: The pool's clock.
        processes: Returns the worker processes of a backend.
    """

    def __init__(
        self,
        backend: Any,
        factory: BackendFactory | None,
        size: int | None,
        now: Callable[[], float],
        processes: Callable[[Any], list[Any]],
    ) -> None:
        # Its number and itself, which are read and exchanged as one.
        self.current: tuple[int, Any] = 1, backend
        # How many workers it has; None where that cannot be known.
        self.size = size
        self.rebuilds = 0
        self._factory = factory
        self._now = now
        self._delay = FIRST_DELAY
        self._due_at: float | None = None
        self._processes = processes
        # Processes of backends that were replaced by larger ones, perhaps not done with what they were
        # given: a backend that was shut down no longer knows them.
        self._retired: list[Any] = []
        self._lock = threading.Lock()  # guards the exchange of one backend for another
        # When backends were built since the last success.
        self._rebuilt_at: deque[float] = deque(maxlen=MAX_REBUILDS)

    @property
    def backend(self) -> Any:
        """The backend in use."""
        return self.current[1]

    @property
    def generation(self) -> int:
        """Which one that is, from 1."""
        return self.current[0]

    @property
    def is_down(self) -> bool:
        """Whether the backend is broken and the next one not there yet."""
        return self._due_at is not None

    def due_in(self) -> float | None:
        """Return the seconds until the next one is to be built; None while this one works."""
        return None if self._due_at is None else max(0.0, self._due_at - self._now())

    def mark_broken(self, generation: int, *, known_cause: bool = False) -> bool:
        """Note that the backend of ``generation`` broke; False when nothing can be done about it.

        ``known_cause``: it is known which task broke it, so that it does not count as one that never worked.
        """
        if generation != self.generation or self.is_down:
            return True
        if self._factory is None:
            return False
        if known_cause and self._rebuilt_at:
            self._rebuilt_at.pop()
        now = self._now()
        if len(self._rebuilt_at) == MAX_REBUILDS and now - self._rebuilt_at[0] < REBUILD_PERIOD:
            return False
        self._due_at = now + self._delay
        if not known_cause:
            self._delay = min(2 * self._delay, MAX_DELAY)
        return True

    def succeeded(self, generation: int) -> None:
        """Note that a task came back from the backend of ``generation``."""
        if generation == self.generation and self._rebuilt_at:
            self._rebuilt_at.clear()
            self._delay = FIRST_DELAY

    def shutdown(self) -> None:
        """Shut the backend down without waiting."""
        shut_down(self.backend)

    def processes(self) -> list[Any]:
        """Return the worker processes of the backend."""
        return self._processes(self.backend)

    def all_processes(self) -> list[Any]:
        """Return the worker processes of this backend and of those before it."""
        return [*self.processes(), *self._retired]

    def replace(self, workers: int) -> bool:
        """Build a larger backend, and let the present one finish what it has; False without a factory."""
        factory = self._factory
        if factory is None:
            return False
        with self._lock:
            if self.size is not None and workers > self.size and not self.is_down:
                number, old = self.current
                self.current = number + 1, factory(workers)
                still = [process for process in self._retired if process.is_alive()]
                self._retired = still + self._processes(old)
                shut_down(old)
            self.size = workers
        return True

    def cancel_rebuild(self) -> None:
        """Cancel the rebuild that is due."""
        self._due_at = None

    def rebuild(self, workers: int) -> None:
        """Build the next backend.

        Raises:
            Exception: The factory's own; `mark_broken` says whether to try again.
        """
        factory = self._factory
        assert factory is not None  # noqa: S101  # `mark_broken` said so
        with contextlib.suppress(Exception):
            self.shutdown()
        self._rebuilt_at.append(self._now())
        try:
            with self._lock:
                self.current = self.generation + 1, factory(workers)
                self.size = None if self.size is None else workers
        except BaseException:
            self._due_at = None  # `mark_broken` sets another
            raise
        # Not before: until the next backend is there, nothing may be handed to the broken one.
        self._due_at = None
        self.rebuilds += 1
