"""How many tasks are sent ahead of those that run: the shorter they are, the more."""

from __future__ import annotations

# What is ahead is to be done within so many seconds: to call it back is impossible, or costs something.
TARGET_BACKLOG_SECONDS = 0.005
# More for each worker gain nothing, and more in all only make whatever looks at each of them slower.
MAX_PER_WORKER = 64
MAX_TOTAL = 512
# So many tasks have to be seen before the first step up.
MIN_SAMPLES = 32


class RunTimes:
    """Learns how long tasks have run of late, and so how many may wait for a worker."""

    __slots__ = ("mean", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.mean = 0.0

    def add(self, seconds: float) -> None:
        """Learn how long a task ran."""
        self.seen += 1
        difference = seconds - self.mean
        # One that runs long counts at once; it takes many that do not to forget it.
        longer = difference > 0 and self.seen > 1
        self.mean += difference / (4 if longer else min(self.seen, MIN_SAMPLES))

    def fitting(self) -> int:
        """Return how many a worker does while they may wait, within reason."""
        return (
            MAX_PER_WORKER
            if self.mean * MAX_PER_WORKER <= TARGET_BACKLOG_SECONDS
            else int(TARGET_BACKLOG_SECONDS / self.mean)
        )


class AdaptivePrefetch(RunTimes):
    """Sets how far ahead of its workers a backend is handed tasks, by how long they have run of late.

    Handing one over takes a tenth of a millisecond and wakes three threads. A worker that is done sooner
    waits for each of its tasks, and each wake-up is for a single one, unless several are there already.

    Args:
        least: How many it has in any case.
        fixed: Whether it never has more.
    """

    def __init__(self, least: int, *, fixed: bool) -> None:
        super().__init__()
        self.ahead = least
        self._least = least
        self._fixed = fixed

    def update(self, workers: int, *, wanted: bool) -> bool:
        """Tell whether `ahead` has changed: it goes down at once, and up only when that is ``wanted``."""
        if self._fixed:
            return False
        most = max(self._least, min(workers * self.fitting(), MAX_TOTAL))
        if most < self.ahead:
            self.ahead = most
            return True
        # In steps, so that tasks whose length varies a little change nothing.
        if wanted and self.seen >= MIN_SAMPLES and most >= 2 * max(1, self.ahead):
            self.ahead = most
            return True
        return False
