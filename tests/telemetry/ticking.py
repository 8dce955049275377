"""The watchdog's ticks, made by the test and by nobody else."""

from __future__ import annotations

from collections.abc import Callable

from prodpool import InstrumentedPool
from prodpool.concurrency.background_thread import background_thread
from prodpool.testing import flush_telemetry


def ticks(pool: InstrumentedPool) -> Callable[[], None]:
    """Take the pool from the watchdog's thread and return what makes one tick of it.

    What the tick has to say is written when it returns.
    """
    monitor = pool._engine.watchdog
    background_thread().remove_periodic(monitor)

    def tick() -> None:
        monitor.tick()
        assert flush_telemetry(pool, 20.0)

    return tick
