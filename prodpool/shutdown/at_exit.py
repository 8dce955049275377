"""The end of a process: pools that were not stopped, and threads that never end.

CPython joins every non-daemon thread before it runs ``atexit``, so one hung task in a foreign
``ThreadPoolExecutor`` keeps a process alive for ever. ``threading._register_atexit`` is the only
hook that runs before that join; it is private, and concurrent.futures itself stands on it
(docs/decisions, D5; guarded by tests/process). The hooks run last registered first, so
``concurrent.futures`` must have registered its own before: hence the imports below.
"""

from __future__ import annotations

import atexit
import concurrent.futures.process  # registers its exit hook, which ours must precede
import concurrent.futures.thread  # noqa: F401  # likewise
import contextlib
import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol

from prodpool.concurrency import call_queue, fork_hooks
from prodpool.concurrency.call_queue import any_busy, any_hangs, exit_begins
from prodpool.shutdown.exit_join import skip_at_exit_join
from prodpool.telemetry.exporters.prometheus import forget_after_fork

# Seconds beyond the drain deadline that the rest of finalization may take where a task or an observer hangs,
# and the most that it may take in all; then the process is ended hard.
GRACE = 1.0
FORCED_EXIT_AFTER = 5.0
# Seconds in which it shows whether a call to an observer that is being made at exit hangs.
CALL_GRACE = 0.25


class Stoppable(Protocol):
    """A pool, as the process's exit sees it."""

    def close(self) -> None:
        """Begin to drain."""

    def drain_deadline(self) -> float:
        """Return the seconds that the pool may take to drain."""
        ...

    def stop_at_exit(self, began: float, *, at_once: bool) -> None:
        """Stop within the drain deadline, counted from ``began``, in this thread; or break off at once."""

    def hung_threads(self) -> Iterable[int]:
        """Return the idents of the threads of a stopped pool that do not end."""
        ...

    def holds_up_exit(self) -> bool:
        """Tell whether those threads would be joined at exit, and should not be."""
        ...


class ExitRegistry:
    """The pools of this process that are not stopped. Uses plain set operations only, each of them atomic."""

    def __init__(self) -> None:
        self._alive: set[Stoppable] = set()
        self._hooked = False
        # Stopped pools with threads that did not end.
        self._left_behind: set[Stoppable] = set()

    def add(self, pool: Stoppable) -> None:
        """Have ``pool`` stopped at exit, unless it is stopped before."""
        self._alive.add(pool)
        if self._hooked:
            return
        register: Any = threading._register_atexit  # type: ignore[attr-defined]  # noqa: SLF001
        # Refused once the interpreter shuts down: a pool built that late has to be stopped by its owner.
        with contextlib.suppress(RuntimeError):
            register(self._stop_all)
            self._hooked = True

    def remove(self, pool: Stoppable) -> None:
        """Forget a pool that has stopped."""
        self._alive.discard(pool)

    def add_hung(self, pool: Stoppable) -> None:
        """Remember a stopped pool that has threads which did not end."""
        self._left_behind.add(pool)

    def remove_hung(self, pool: Stoppable) -> None:
        """Forget a stopped pool whose last thread has come back after all."""
        self._left_behind.discard(pool)

    def forget_after_fork(self) -> None:
        """Forget the pools, which are the parent's."""
        self._alive.clear()
        self._left_behind.clear()

    def _stop_all(self) -> None:
        fork_hooks.notice_fork()
        pools = list(self._alive)
        began = time.monotonic()
        exit_begins()
        # All begin before the first is waited for, so that the deadlines run side by side.
        interrupt: BaseException | None = None
        for pool in pools:
            try:
                pool.close()
            except BaseException as error:  # noqa: BLE001  # Ctrl-C, or what a handler of SIGTERM raised
                interrupt = error
        for pool in pools:
            try:
                pool.stop_at_exit(began, at_once=interrupt is not None)
            except BaseException as error:  # noqa: BLE001  # likewise
                interrupt = error
        in_the_way = [pool for pool in self._left_behind if pool.holds_up_exit()]
        skip_at_exit_join({ident for pool in in_the_way for ident in pool.hung_threads()})
        ends = began + max((pool.drain_deadline() for pool in pools), default=0.0)
        if multiprocessing.parent_process() is not None:
            # Such a child may end without atexit, but not without flushing its streams.
            self._arm_forced_exit(ends)
        else:
            # Registered last and hence called first, right after the join.
            atexit.register(self._arm_forced_exit, ends)
        if interrupt is not None:
            raise interrupt

    def _arm_forced_exit(self, ends: float) -> None:
        """Set a limit to finalization where something hangs that may hold a lock which logging wants.

        That is a task, or a log sink, an exporter or a callback in a thread of ours.
        """
        hung = any(list(pool.hung_threads()) for pool in self._left_behind)
        if not hung and not any_busy():
            return
        left = min(FORCED_EXIT_AFTER, max(0.0, ends - time.monotonic()) + GRACE)
        # A timer in C, since no Python thread can be counted on by now. It also says who hangs.
        with contextlib.suppress(Exception):
            faulthandler.dump_traceback_later(left, exit=True, file=_stream())
        # Set before the wait: an interrupt in it, or a long one, must not leave the process without a limit.
        if not hung and not any_hangs(CALL_GRACE):
            faulthandler.cancel_dump_traceback_later()


def _stream() -> Any:
    stream = sys.__stderr__
    try:
        return stream if stream is not None and stream.fileno() >= 0 else _no_stream()
    except (OSError, ValueError):
        return _no_stream()


def _no_stream() -> Any:
    # Never closed: the timer writes to it when the process ends.
    return open(os.devnull, "wb")  # noqa: PTH123


exit_registry = ExitRegistry()


def _after_fork() -> None:
    forget_after_fork()
    call_queue.forget_after_fork()
    exit_registry.forget_after_fork()


fork_hooks.register(_after_fork)
