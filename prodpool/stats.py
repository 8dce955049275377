"""What `InstrumentedPool.stats` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prodpool.task.outcomes import Reason, Result, count_refused
from prodpool.telemetry.snapshot import PoolSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStats:
    """A pool at one moment; its numbers add up.

    ``submitted`` is the sum of ``completed``, of what was dropped after admission (expired, cancelled,
    shutdown), of ``queued`` and of ``running``.

    Attributes:
        state: "open", "draining" or "stopped".
        workers: Tasks that may run at once.
        queue_capacity: Tasks that may wait.
        queued: Tasks that wait now.
        running: Tasks that run now.
        submitted: Tasks admitted since the pool was built.
        completed: Tasks finished, by result.
        dropped: Tasks that never ran, by reason.
        abandoned: Tasks that still ran when a stop gave them up; each is running until it ends.
        oldest_queued: Seconds that the first task of the queue has waited; 0 when none waits.
        longest_running: Seconds that the oldest running task, or done-callback, has run; 0 when none runs.
        hung: Running tasks and done-callbacks past ``hung_after``; both are in ``longest_running`` too.
        breaker: "closed", "open" or "half_open"; None without a breaker.
    """

    name: str
    state: str
    workers: int
    queue_capacity: int
    queued: int
    running: int
    submitted: int
    completed: Mapping[Result, int]
    dropped: Mapping[Reason, int]
    abandoned: int = 0
    oldest_queued: float
    longest_running: float
    hung: int
    breaker: str | None

    @classmethod
    def of(cls, reading: PoolSnapshot) -> Self:
        """Take the numbers from a snapshot."""
        return cls(
            name=reading.pool,
            state=reading.state,
            workers=reading.workers,
            queue_capacity=reading.queue_capacity,
            queued=reading.queued,
            running=reading.running,
            submitted=reading.submitted,
            completed=reading.completed,
            dropped=reading.dropped,
            abandoned=reading.abandoned,
            oldest_queued=reading.oldest_queued,
            longest_running=reading.longest_running,
            hung=reading.hung,
            breaker=reading.breaker,
        )

    @property
    def in_flight(self) -> int:
        """Tasks admitted and not finished."""
        return self.queued + self.running

    @property
    def offered(self) -> int:
        """Tasks that were offered to the pool, whether it admitted or refused them."""
        return self.submitted + count_refused(self.dropped)
