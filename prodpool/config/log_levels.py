"""The log events of a pool, and at which levels an application wants them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from prodpool.text import shown

# docs/reference/log-events.md says when each is written, and at which level by default.
LOG_EVENTS = (
    "pool.created",
    "pool.forked",
    "pool.resized",
    "pool.grpc_unbounded",
    "pool.draining",
    "pool.stop_blocks_loop",
    "pool.drain_progress",
    "pool.drain_deadline",
    "pool.stopped",
    "pool.dropping",
    "pool.backend_broken",
    "pool.backend_rebuilt",
    "pool.worker_lost",
    "task.error",
    "task.panic",
    "task.slow",
    "task.still_running",
    "task.abandoned",
    "task.callback_error",
    "breaker.changed",
)
LEVELS = ("debug", "info", "warning", "error", "critical")


def check_log_levels(levels: Mapping[str, str]) -> Mapping[str, str]:
    """Return ``levels`` if each is a level of logging and given for an event of the pool.

    Raises:
        TypeError, ValueError: One is not; the message names it and what would do.
    """
    if not isinstance(levels, Mapping):
        raise TypeError(f"log_levels={shown(levels)} must be a mapping, such as {{'task.slow': 'info'}}")
    for event, level in levels.items():
        if event not in LOG_EVENTS:
            raise ValueError(
                f"log_levels={shown(levels)}: {shown(event)} is not an event of a pool; they are "
                f"{', '.join(LOG_EVENTS)}"
            )
        if level not in LEVELS:
            raise ValueError(
                f"log_levels={shown(levels)}: {shown(level)} is not a level; use one of {', '.join(LEVELS)}"
            )
    return MappingProxyType(dict(levels))
