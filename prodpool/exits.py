"""The ends of a process: pools nobody stopped, threads that never end, and forks.

CPython joins every non-daemon thread before it runs ``atexit``, so one hung task in a foreign
``ThreadPoolExecutor`` keeps a process alive for ever. ``threading._register_atexit`` is the only
hook that runs before that join; it is private, and concurrent.futures itself stands on it
(docs/decisions.md, D5; guarded by tests/process). The hooks run last registered first, so
``concurrent.futures.thread`` must have registered its own before: hence the import below.

How the join is avoided: the hook raises. ``threading._shutdown`` is then left, CPython reports the
error through ``sys.unraisablehook`` and goes on to finalize as usual: ``atexit`` runs, streams are
flushed and the exit status is the one the program chose. ``os._exit`` would give none of that.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # registers its exit hook, which ours must precede
import os
import sys
import threading
import time
from typing import Any, Protocol

from prodpool.telemetry.prometheus import forget_after_fork
from prodpool.telemetry.watchdog import watchdog

# Seconds that finalization may take once threads were left behind; then the process is ended hard.
LAST_RESORT_AFTER = 5.0
EX_SOFTWARE = 70


class Stoppable(Protocol):
    """What must be ended before the process is, and marked dead in a forked child."""

    def close(self) -> None:
        """Begin to drain."""

    def stop_at_exit(self) -> None:
        """Stop within the drain deadline, in this thread."""

    def hangs(self) -> bool:
        """Tell whether a stopped pool still has a worker that does not end."""
        ...

    def forked(self) -> None:
        """Be dead in this process; called in the child of a fork, where any lock may be held."""


class _LeaveThreadsError(BaseException):
    """Raised by the exit hook to leave hung threads behind."""


class ExitDesk:
    """Knows what is alive in this process. Plain set operations only, each of them atomic."""

    def __init__(self) -> None:
        self._alive: set[Stoppable] = set()
        self._hooked = False
        # Stopped pools with threads that would hold up the exit.
        self._left_behind: set[Stoppable] = set()

    def enter(self, pool: Stoppable) -> None:
        """Have ``pool`` stopped at exit if nobody does it before."""
        if not self._hooked:
            self._hooked = True
            register: Any = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001
            register(self._at_exit)
        self._alive.add(pool)

    def leave(self, pool: Stoppable) -> None:
        """Forget a pool that has stopped."""
        self._alive.discard(pool)

    def leave_behind(self, pool: Stoppable) -> None:
        """Do not wait at exit for the threads of a stopped pool that hang."""
        self._left_behind.add(pool)

    def come_back(self, pool: Stoppable) -> None:
        """Forget a stopped pool whose last thread has come back after all."""
        self._left_behind.discard(pool)

    def forked(self) -> None:
        """Mark everything dead in a forked child."""
        for pool in list(self._alive):
            pool.forked()
        self._alive.clear()
        self._left_behind.clear()

    def _at_exit(self) -> None:
        pools = list(self._alive)
        # All begin before the first is waited for, so that the deadlines run side by side.
        for pool in pools:
            pool.close()
        for pool in pools:
            pool.stop_at_exit()
        if any(pool.hangs() for pool in list(self._left_behind)):
            watchdog().soon(_end_hard_later)
            _leave_threads()


def _leave_threads() -> None:
    report = sys.unraisablehook

    def quiet(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, _LeaveThreadsError):
            report(unraisable)

    sys.unraisablehook = quiet
    raise _LeaveThreadsError


def _end_hard_later() -> None:
    """Wait, and end the process if it has not ended: a hung thread may hold a lock that atexit wants."""
    time.sleep(LAST_RESORT_AFTER)
    os._exit(EX_SOFTWARE)


exit_desk = ExitDesk()


def _after_fork() -> None:
    forget_after_fork()
    exit_desk.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
