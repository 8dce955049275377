"""The watchdog's ticks, made by the test and by nobody else."""

from __future__ import annotations

from collections.abc import Callable

from prodpool import InstrumentedPool
from prodpool.telemetry.watchdog import watchdog


def ticks(pool: InstrumentedPool) -> Callable[[], None]:
    """Take the pool from the watchdog's thread and return what makes one tick of it."""
    monitor = pool._engine.monitor
    watchdog().unwatch(monitor)
    return monitor.tick
