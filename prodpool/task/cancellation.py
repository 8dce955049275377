"""What tells a running task that it should end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

# Seconds between two looks at what another process may have asked for.
LOOK_EVERY = 0.05


def _never() -> bool:
    return False


class CancelToken(threading.Event):
    """An event that is also set from the moment the task's run-time limit is over.

    The limit is looked at when the task asks, so it is exact and needs no timer.

    Args:
        left: Returns the seconds until the limit; not called again once it has returned 0 or less.
        asked: Whether the pool, perhaps from another process, wants the task to end.
    """

    def __init__(
        self, left: Callable[[], float] = lambda: math.inf, asked: Callable[[], bool] = _never
    ) -> None:
        super().__init__()
        self._left = left
        self._asked = asked

    def is_set(self) -> bool:
        """Tell whether the task should end."""
        if not super().is_set() and (self._left() <= 0.0 or self._asked()):
            self.set()
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; False after ``timeout`` seconds."""
        ends = math.inf if timeout is None else time.monotonic() + timeout
        look_every = threading.TIMEOUT_MAX if self._asked is _never else LOOK_EVERY
        while not self.is_set() and (left := ends - time.monotonic()) > 0.0:
            super().wait(min(left, max(0.0, self._left()), look_every))
        return self.is_set()
