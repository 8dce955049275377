"""How many calls a worker process is sent ahead of the one that it runs: the shorter they are, the more."""

from __future__ import annotations

from prodpool.workers.run_times import RunTimes

# So many tasks have to be seen before anything is sent ahead.
MIN_SAMPLES = 8


class WorkerPrefetch(RunTimes):
    """Learns how long the tasks of one worker run."""

    __slots__ = ()

    def ahead(self) -> int:
        """Return how many may be sent ahead."""
        return 0 if self.seen < MIN_SAMPLES else self.fitting()
