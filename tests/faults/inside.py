"""All that these tests look at inside a pool; everything else goes through the public API."""

from __future__ import annotations

from prodpool import InstrumentedPool


def in_line(pool: InstrumentedPool) -> int:
    """Return how many submitters wait for a slot."""
    return pool._engine.dispatcher.waiters.length


def paused(pool: InstrumentedPool) -> bool:
    """Tell whether the pool is paused."""
    return pool._engine.dispatcher.paused


def idle_workers(pool: InstrumentedPool) -> int:
    """Return how many worker loops wait for a task."""
    return len(pool._engine.dispatcher.worker_set.parked)
