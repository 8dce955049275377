"""The engine of one pool in this process, and another one in a forked child of it.

The threads of a pool stay in the parent. In the child its engine is disabled, and the first use builds
another, from what the pool was made of: the counters begin at 0 there. That needs a backend which has no
threads in the parent: one that was not used yet, or that is only a template, or one more of its factory.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from prodpool.concurrency import fork_hooks
from prodpool.engine import Engine
from prodpool.errors import PoolClosedError, PoolForkedError
from prodpool.shutdown.report import StopReport
from prodpool.task.outcomes import State
from prodpool.workers.backends import is_unstarted
from prodpool.workers.base import Capabilities, shut_down

# A plain set, of which `list` makes a copy in one atomic step while other threads build pools.
_holders: set[weakref.ref[EngineHolder]] = set()


class EngineHolder:
    """Holds the engine of one pool.

    Args:
        make: Builds an engine around a backend of these capabilities.
        backend: What the pool wraps.
        abilities: What that can do.
        build_backend: Builds another backend and says what that can do; None if there is no other.
    """

    def __init__(
        self,
        make: Callable[[Any, Capabilities], Engine],
        backend: Any,
        abilities: Capabilities,
        build_backend: Callable[[], tuple[Any, Capabilities]] | None,
    ) -> None:
        self._make = make
        self._build_backend = build_backend
        self.mark = fork_hooks.process_mark()
        self._lock = threading.RLock()
        # Whether the engine was disabled by a fork: it is the parent's.
        self._inherited = False
        # Referenced, since its finalizer may wait for threads that are not here.
        self._parents_backend: Any = None
        # Whether the pool was stopped here before it had an engine of this process.
        self._stopped = False
        self._metrics_closed = False
        self._reported = False
        self._was_open = True
        self.engine = make(backend, abilities)

    def open(self) -> None:
        """Export the pool, and have it disabled in children that are forked from now on.

        Raises:
            ValueError: In prometheus_client's multiprocess mode, its folder cannot be written to.
        """
        _holders.add(weakref.ref(self, _holders.discard))
        self.engine.open()

    def current(self) -> Engine:
        """Return the engine of this process; build it if this process was forked since.

        Raises:
            PoolForkedError: That cannot be done.
            PoolClosedError: The pool was stopped here, or before the fork.
            Exception: What the pool's factory raised; or this process can have no worker processes.
        """
        if not self.mark[0]:
            fork_hooks.notice_fork()
            with self._lock:
                if not self.mark[0]:
                    self.forked()  # an interrupt may have kept the hook from it
                    self._start_anew()
        return self.engine

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool = False) -> StopReport:
        """Stop the pool; see `Stopper.stop`. One that was inherited and not used here has nothing to stop."""
        if not self.mark[0]:
            fork_hooks.notice_fork()
            self._stopped = True
            if not self.mark[0]:
                return self.engine.stopper.stop(deadline, wait=wait, cancel_queued=cancel_queued)
        return self.engine.stop(deadline, wait=wait, cancel_queued=cancel_queued)

    def close_metrics(self) -> None:
        """Export the pool no more, in this process and those forked from it."""
        fork_hooks.notice_fork()
        self._metrics_closed = True
        self.engine.close_metrics()

    def inherited(self) -> bool:
        """Tell whether the engine is the parent's, since the pool was not used here."""
        return not self.mark[0]

    def is_in_use(self) -> bool:
        """Tell whether the pool was used in this process and is not stopped."""
        return bool(self.mark[0]) and self.engine.used and self.engine.dispatcher.state is not State.STOPPED

    def drain_deadline_within(self, seconds: float) -> float:
        """Return the pool's ``drain_deadline``, or ``seconds`` if that is shorter."""
        return min(seconds, self.engine.settings.drain_deadline)

    def on_pool_collected(self) -> None:
        """Drain a pool to which no reference is left; called by a finalizer."""
        if self.mark[0]:
            self.engine.on_pool_collected()

    def forked(self) -> None:
        """Disable the engine in a forked child."""
        if self._inherited or fork_hooks.is_of_this_process(self.mark):
            return
        self._lock = threading.RLock()
        self._was_open = self.engine.dispatcher.state is State.OPEN
        self._reported = False
        self.engine.forked()
        self._inherited = True

    def _start_anew(self) -> None:
        backend, abilities = self._backend_for_child()
        try:
            if abilities.template is not None:
                abilities = replace(abilities, template=abilities.template.in_child())
            if self.mark[0]:
                # A signal handler has come in between, and has used the pool.
                self._shut_down_built(backend)
                return
            new = self._make(backend, abilities)
        except BaseException:
            self._shut_down_built(backend)
            raise
        try:
            new.open()
            if self._metrics_closed:
                new.close_metrics()
            self._parents_backend = self.engine.backend
            self.engine, self._inherited = new, False
        except BaseException:
            if self.engine is not new:
                new.discard()
                self._shut_down_built(backend)
            raise
        # Last: other threads look at it without the lock.
        self.mark = fork_hooks.process_mark()
        if self._stopped:
            new.stop(0.0, wait=False)
            raise PoolClosedError(pool=new.settings.name)

    def _backend_for_child(self) -> tuple[Any, Capabilities]:
        engine = self.engine
        if self._stopped or not self._was_open:
            raise PoolClosedError(pool=engine.settings.name)
        if self._build_backend is not None:
            backend, abilities = self._build_backend()
        elif engine.abilities.template is not None or (not engine.used and is_unstarted(engine.backend)):
            backend, abilities = engine.backend, engine.abilities
        else:
            error = PoolForkedError(pool=engine.settings.name)
            if not self._reported:
                self._reported = True
                engine.log.error("pool.forked", detail=str(error))
            raise error
        return backend, abilities

    def _shut_down_built(self, backend: Any) -> None:
        if self._build_backend is not None:
            shut_down(backend)


def stop_pools(deadline: float) -> list[StopReport]:
    """Stop all pools of this process that were used in it and are not stopped, side by side.

    Args:
        deadline: Seconds that each may take at most, if its own ``drain_deadline`` is not shorter.

    Raises:
        BaseException: What the stop of a pool raised, such as Ctrl-C, once the others have stopped.
    """
    fork_hooks.notice_fork()
    in_use = [holder for holder in _alive_holders() if holder.is_in_use()]
    reports: list[StopReport] = []
    interrupt: BaseException | None = None
    # All begin before the first is waited for, so that the deadlines run side by side.
    for wait in (False, True):
        for holder in in_use:
            try:
                report = holder.stop(holder.drain_deadline_within(deadline), wait=wait)
            except BaseException as error:  # noqa: BLE001  # the others are stopped all the same
                interrupt = error
            else:
                if wait:
                    reports.append(report)
    if interrupt is not None:
        raise interrupt
    return reports


def _alive_holders() -> list[EngineHolder]:
    return [holder for reference in list(_holders) if (holder := reference()) is not None]


def _after_fork() -> None:
    for holder in _alive_holders():
        # One that cannot be disabled now is, before it is used.
        with suppress(Exception):
            holder.forked()


fork_hooks.register(_after_fork)
