"""The engine of one pool in this process, and another one in a forked child of it.

The threads of a pool stay in the parent. In the child its engine is disabled, and the first use builds
another, from what the pool was made of: the counters begin at 0 there. That needs a backend which has no
threads in the parent: one that was not used yet, or that is only a template, or one more of its factory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from prodpool.concurrency import fork_hooks
from prodpool.engine import Engine
from prodpool.errors import PoolClosedError, PoolForkedError
from prodpool.shutdown.report import StopReport
from prodpool.task.outcomes import State
from prodpool.workers.base import Capabilities, shut_down

_holders: WeakSet[EngineHolder] = WeakSet()


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
        # Whether an inherited pool was stopped here.
        self._stopped = False
        self._reported = False
        self._was_open = True
        self.engine = make(backend, abilities)

    def open(self) -> None:
        """Export the pool, and have it disabled in children that are forked from now on.

        Raises:
            ValueError: A pool of that name is alive.
        """
        _holders.add(self)
        self.engine.open()

    def current(self) -> Engine:
        """Return the engine of this process; build it if this process was forked since.

        Raises:
            PoolForkedError: That cannot be done.
            PoolClosedError: The pool was stopped here, or before the fork.
            Exception: What the pool's factory raised.
        """
        if not self.mark[0]:
            fork_hooks.notice_fork()
            with self._lock:
                if self._inherited:
                    self._start_anew()
        return self.engine

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool) -> StopReport:
        """Stop the pool; see `Stopper.stop`. One that was inherited and not used here has nothing to stop."""
        if self.mark[0]:
            return self.engine.stop(deadline, wait=wait, cancel_queued=cancel_queued)
        fork_hooks.notice_fork()
        with self._lock:
            self._stopped |= self._inherited
            engine, begun_here = self.engine, not self._inherited
        stop = engine.stop if begun_here else engine.stopper.stop
        return stop(deadline, wait=wait, cancel_queued=cancel_queued)

    def inherited(self) -> bool:
        """Tell whether the engine is the parent's, since the pool was not used here."""
        return not self.mark[0]

    def on_pool_collected(self) -> None:
        """Drain a pool to which no reference is left; called by a finalizer."""
        if self.mark[0]:
            self.engine.on_pool_collected()

    def forked(self) -> None:
        """Disable the engine in a forked child."""
        self._lock = threading.RLock()
        if not self._inherited:
            self._inherited = True
            self._was_open = self.engine.dispatcher.state is State.OPEN
            self.engine.forked()

    def _start_anew(self) -> None:
        engine = self.engine
        if self._stopped or not self._was_open:
            raise PoolClosedError(pool=engine.settings.name)
        if self._build_backend is not None:
            backend, abilities = self._build_backend()
        elif not engine.used or engine.abilities.template is not None:
            backend, abilities = engine.backend, engine.abilities
        else:
            if not self._reported:
                self._reported = True
                engine.log.error("pool.forked", detail=str(PoolForkedError(pool=engine.settings.name)))
            raise PoolForkedError(pool=engine.settings.name)
        try:
            new = self._make(backend, abilities)
            new.open()
        except BaseException:
            if self._build_backend is not None:
                shut_down(backend)
            raise
        self.engine = new
        self._inherited = False
        # Last: what other threads look at without the lock.
        self.mark = fork_hooks.process_mark()


def _after_fork() -> None:
    for holder in list(_holders):
        holder.forked()


fork_hooks.register(_after_fork)
