"""How a task ended, and the observers that are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from prodpool.task.task import Task

ABANDONED = "abandoned"


class RunBy(Enum):
    """Whose thread a task ran in, which says what its settlement gives back."""

    WORKER = auto()
    WAITER = auto()  # a task of the same pool that waits for this one, in the worker of that one
    CALLER = auto()  # the submitter's own thread; the task is counted only when it has ended


class Ending(NamedTuple):
    """How a task ended. It is built once; every observer reads the same one.

    Attributes:
        kind: A `Result` for a task that ran, a `Reason` for one that never did, `ABANDONED` for one that
            still ran when the pool's stop deadline passed; its times are not known then, and 0.
        error: What its future raises; None where it has a value, or is cancelled.
        dwell: Seconds between admission and start, or between admission and the drop.
        duration: Seconds of the run; 0 where there was none.
        ran_by: Whose thread it ran in; None where it did not run.
    """

    kind: str
    error: BaseException | None
    dwell: float
    duration: float
    ran_by: RunBy | None


class TaskObserver:
    """Told how the tasks of one pool end; a subclass overrides `ended`.

    The call comes in the thread that settles the task, without a lock, when the task is counted and before
    its future has its result. It must not wait. What it raises is reported as a telemetry error and kept
    from the task. A task that is settled after an interrupt is told of once at most.
    """

    every_task = False
    """Whether it must hear of the tasks that end well and fast, too. That closes the pool's fast path."""

    def ended(self, task: Task, ending: Ending) -> None:
        """React to the end of ``task``."""


def ended_hooks(observers: Iterable[TaskObserver]) -> tuple[Callable[[Task, Ending], None], ...]:
    """Return the `TaskObserver.ended` of those that override it, in their order."""
    return tuple(one.ended for one in observers if type(one).ended is not TaskObserver.ended)
