"""The words for states, drop reasons and results.

Each is a closed set that code, metrics, logs, dashboards and runbook share.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

__all__ = ["AFTER_ADMISSION", "LossCause", "Reason", "Result", "State"]


class State(StrEnum):
    """Where in its life a pool is; it only ever goes forward."""

    OPEN = "open"
    DRAINING = "draining"
    STOPPED = "stopped"


class Reason(StrEnum):
    """Why a task never ran: it was refused, or dropped after admission (expired, cancelled, shutdown)."""

    FULL = "full"
    CLOSED = "closed"
    BREAKER_OPEN = "breaker_open"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"

    # The string's own, written in C. `Enum` has one in Python, and a count that is kept by reason would
    # call it between two stores: there a signal handler could raise, with half of a step done.
    __hash__ = str.__hash__


# Why an admitted task never ran; all others refuse admission.
AFTER_ADMISSION = (Reason.EXPIRED, Reason.CANCELLED, Reason.SHUTDOWN)


def count_refused(dropped: Mapping[Reason, int]) -> int:
    """Return how many of the tasks that were dropped were not admitted."""
    return sum(count for reason, count in dropped.items() if reason not in AFTER_ADMISSION)


class Result(StrEnum):
    """How a task that ran came to its end."""

    OK = "ok"
    ERROR = "error"
    """The task raised an `Exception`."""
    PANIC = "panic"
    """The task raised a bare `BaseException`, such as `SystemExit`, or took its worker down."""
    TIMEOUT = "timeout"
    """The task was killed for its run-time limit."""

    __hash__ = str.__hash__  # as that of `Reason`


class LossCause(StrEnum):
    """Why a pool has lost a worker that it did not end itself."""

    SIGNAL = "signal"
    """A signal killed its process, as the system does when memory runs out."""
    EXIT = "exit"
    """It ended by itself, or the system does not say how."""
    START = "start"
    """It could not be started, or ended before its first task."""
    BACKEND = "backend"
    """An executor whose workers are not the pool's own broke, or has lost one of them."""

    __hash__ = str.__hash__  # likewise
