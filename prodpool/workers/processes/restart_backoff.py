"""When the next worker process is started, and when the pool gives up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

# Seconds before a process is started after one that did not come up: doubled each time until one has.
FIRST_DELAY = 0.25
# So many that did not come up within so many seconds, and none that did: nothing more is tried.
MAX_FAILURES = 5
FAILURE_PERIOD = 60.0


class RestartBackoff:
    """Counts the starts of one pool's worker processes that have failed since the last that has not."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failed: deque[float] = deque(maxlen=MAX_FAILURES)

    def delay(self) -> float:
        """Return the seconds to wait before the next start."""
        with self._lock:
            if not self._failed:
                return 0.0
            return max(0.0, self._failed[-1] + self._wait() - self._now())

    def _wait(self) -> float:
        return FIRST_DELAY * 2.0 ** (len(self._failed) - 1)

    def succeeded(self) -> None:
        """Note that a process is there."""
        if self._failed:
            with self._lock:
                self._failed.clear()

    def failed(self) -> bool:
        """Note that one did not come up; False when there is no use in trying again."""
        with self._lock:
            now = self._now()
            if self._failed and now < self._failed[-1] + self._wait():
                return True  # started together with the one before
            self._failed.append(now)
            return len(self._failed) < MAX_FAILURES or now - self._failed[0] >= FAILURE_PERIOD
