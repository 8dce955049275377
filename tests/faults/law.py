"""The law of conservation, and waiting for a state within a bound."""

from __future__ import annotations

import time
from collections.abc import Callable

from prodpool import PoolStats, Reason

AFTER_ADMISSION = (Reason.EXPIRED, Reason.CANCELLED, Reason.SHUTDOWN)


def missing(stats: PoolStats) -> int:
    """Return how many admitted tasks are accounted for nowhere; negative if some are counted twice."""
    dropped = sum(stats.dropped[reason] for reason in AFTER_ADMISSION)
    return stats.submitted - sum(stats.completed.values()) - dropped - stats.queued - stats.running


def unsettled(stats: PoolStats) -> list[str]:
    """Say what keeps a pool from being at rest with every task accounted for."""
    found = {
        "queued for ever": stats.queued,
        "running for ever": stats.running,
        "law off by": missing(stats),
    }
    return [f"{what}: {number}" for what, number in found.items() if number]


def poll(condition: Callable[[], bool], seconds: float, every: float = 0.002) -> bool:
    """Return True as soon as ``condition`` holds, or False after ``seconds``."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(every)
    return True
