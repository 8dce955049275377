"""What `InstrumentedPool.stop` returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """What `InstrumentedPool.stop` did.

    Attributes:
        drained: Whether everything that was queued or running has finished.
        completed: Tasks that finished while the pool drained.
        dropped: Queued tasks that were dropped at the deadline (counted as ``shutdown``).
        abandoned: Names of the tasks that still ran after the deadline, which ``PoolStats.abandoned`` counts.
            A done-callback that still ran is named too, as ``a done-callback of`` its task, and not counted.
        elapsed: Seconds it took.
    """

    drained: bool
    completed: int
    dropped: int
    abandoned: tuple[str, ...]
    elapsed: float
