"""Let each allocation of a call to the pool fail once, in turn, and judge the pool after each.

By hand: ``python -m tests.faults.programs.allocations submit_parked:executor [--only 7 | --points 20]``.
A name is a scenario, a group (threads, processes) or ``all``. It prints what ``interrupt.py`` prints.
Allocations are made to fail by ``_testcapi``, which a CPython without its test modules does not have.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from prodpool import BreakerPolicy, PoolView, TaskExpiredError
from tests.faults.campaign import main
from tests.faults.cases import Case, noop, prepare
from tests.faults.points import PACKAGE, places
from tests.faults.scenarios import SCENARIOS, waiting_in_vain

# More allocations than a scenario has fewer of, when it is played again.
AHEAD = 10_000


class FailingAllocation:
    """Lets the ``target``-th allocation inside ``with`` fail, in whatever thread it is made."""

    def __init__(self, target: int) -> None:
        # The second is how CPython reports that it has lost the first; the third comes from a lock that could
        # not be made, or is a refusal.
        self.errors: tuple[type[BaseException], ...] = (MemoryError, SystemError, RuntimeError)
        # Python makes do without some allocations, and crashes where it lacks others (3.13.0).
        self.surely = False
        self.fragile = True
        self.misses = 5
        self.seen = 0
        self.target = target
        self.where: str | None = None

    def __enter__(self) -> Self:
        _targets[0] = self.target
        if self.target:
            _testcapi.set_nomemory(self.target, self.target + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        to_come = kind is None and (self.target == 0 or _is_to_come())
        _testcapi.remove_mem_hooks()
        if kind is None:
            self.where = None if to_come else "swallowed, or in another thread"
        else:
            frame = None
            while trace is not None:
                frame, trace = trace.tb_frame, trace.tb_next
            self.where = " < ".join(places(frame, PACKAGE))

    def hit_another(self) -> bool:
        """Tell whether the thread of a ProcessPoolExecutor has ended of it: it never answers again."""
        return self.target > 0 and _ended_at.get("_ExecutorManagerThread") == self.target


# The threads that have ended for want of memory: the last target at which one did, by the name of its class.
_ended_at: dict[str, int] = {}
_targets = [0]


def _note_end(args: threading.ExceptHookArgs) -> None:
    _ended_at[type(args.thread).__name__] = _targets[0]
    threading.__excepthook__(args)


def _is_to_come() -> bool:
    """Tell whether the failure that was ordered has not come yet, by having it come here."""
    try:
        for _ in range(AHEAD):
            object()
    except MemoryError:
        return True
    return False


def with_view(kind: str, options: Callable[[Case], PoolView]) -> Case:
    case = prepare(kind)
    view = options(case)
    case.act = lambda: case.futures.append(view.submit(noop))
    return case


def result(kind: str) -> Case:
    """The worker's allocations fail as well, while the caller waits."""
    case = prepare(kind)
    case.act = lambda: case.submit().exception(5)
    return case


def fail(kind: str) -> Case:
    """A task that fails, and the log line about it."""
    case = prepare(kind)
    case.act = lambda: case.submit(divmod, 1, 0).exception(5)
    return case


def breaker(kind: str) -> Case:
    case = prepare(kind, breaker=BreakerPolicy())
    case.act = case.submit
    return case


def cancel(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = case.submit().cancel
    return case


def deadline(kind: str) -> Case:
    return with_view(kind, lambda case: case.pool.options(deadline=5.0))


def expires_in_line(kind: str) -> Case:
    """A submitter whose task expires before there is a slot for it."""
    return waiting_in_vain(kind, TaskExpiredError, deadline=0.002)


OWN = {setup.__name__: setup for setup in (result, fail, breaker, cancel, deadline, expires_in_line)}
BORROWED = (
    *("submit_parked", "submit_queued", "submit_full", "stats", "dump", "resume", "stop", "scrape"),
    "caller_runs",
)
THREADS: dict[str, Callable[[], Case]] = {
    **{f"{name}:executor": SCENARIOS[f"{name}:executor"] for name in BORROWED},
    **{f"{name}:executor": partial(setup, "executor") for name, setup in OWN.items()},
    "submit_parked:threads": SCENARIOS["submit_parked:threads"],
}
PROCESSES: dict[str, Callable[[], Case]] = {
    "submit_idle:processes": SCENARIOS["submit_idle:processes"],
    "submit_busy:processes": SCENARIOS["submit_busy:processes"],
    "cancel_remote:processes": SCENARIOS["cancel_remote:processes"],
    "map_remote:processes": SCENARIOS["map_remote:processes"],
    "submit_idle:process_pool": SCENARIOS["submit_idle:process_pool"],
    "result:processes": partial(result, "processes"),
}
GROUPS = {"threads": [*THREADS], "processes": [*PROCESSES]}

if __name__ == "__main__":
    threading.excepthook = _note_end
    main(__doc__, FailingAllocation, {**THREADS, **PROCESSES}, GROUPS)
