"""A breaker whose circuit breaker keeps its state in a storage outside the process, such as a Redis.

Such a storage may be slow, hang or be gone, and pybreaker holds its lock while it waits for it. So one thread
of the pool's own makes all calls of it: it feeds the outcomes, in order, and looks at times whether another
host has changed the state. Submitters and workers go by the state that this thread has seen last (D33).

Half-open is entered at once, by the pool's clock: how many probes are out is the business of each process.
The storage hears of it before it hears of the probe's outcome.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import pybreaker

from prodpool.admission.breaker.breaker import FOUND_IN_STORAGE, Breaker
from prodpool.admission.breaker.circuits import ExternalCircuit, has_memory_storage
from prodpool.admission.breaker.feeding import feed_from_thread
from prodpool.admission.breaker.permit import STATES, BreakerState, Permit, Probe
from prodpool.concurrency.call_queue import CallQueue
from prodpool.concurrency.interrupts import start_thread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.errors import BreakerOpenError

__all__ = ["DeferredBreaker", "make_breaker"]

# How many outcomes may wait for the storage. Successes in a row wait as one.
CAPACITY = 1000
# Seconds after which a submit, or a look at the state, has the thread look into the storage again.
LOOK_EVERY = 1.0
# Seconds that the making of a pool waits for the state that the storage holds. Until it is known: closed.
FIRST_LOOK = 2.0
# Seconds for which one outcome may be on its way before tasks are admitted whatever the last state was.
UNRESPONSIVE_AFTER = 10.0
# Seconds that the thread sleeps once it has nothing left to do, so that not each outcome wakes it.
_REST = 0.005
# Seconds that detaching is waited for.
DETACH_TIMEOUT = 0.5
# Of a task that was admitted whatever the state was: of no generation, so that its outcome is not fed.
NO_GENERATION = 0


class _Outcome(NamedTuple):
    permit: Permit
    exception: BaseException | None
    duration: float


class DeferredBreaker(Breaker):
    """Feeds one `pybreaker.CircuitBreaker` from a thread.

    Threads: no method waits for the storage, save `close`, `flush` and the constructor, which are bounded
        (the last is not, where the system has no thread to give).
    """

    _feed = staticmethod(feed_from_thread)

    def __init__(
        self,
        spec: pybreaker.CircuitBreaker,
        *,
        pool: str,
        monotonic: Callable[[], float],
        hung_after: float,
        on_change: Callable[[str, str, str], None],
        on_error: Callable[[str, BaseException], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Take over from the state that is read within `FIRST_LOOK` seconds, or else from closed.

        Args:
            spec: A circuit breaker with a storage that is not in this process.
            pool: Name of the pool, for errors and the thread.
            monotonic: Seconds that never run backwards.
            hung_after: Seconds after which a probe that has not been judged is given up.
            on_change: As for `Breaker`.
            on_error: As for `Breaker`; also told, once each time, that the storage does not answer.
            on_lost: Called for each outcome that the storage will not hear of; must not block.
        """
        self._on_lost = on_lost
        # What the storage is to hear of; None: that the pool is half-open. Guarded by _lock.
        self._waiting: deque[_Outcome | None] = deque()
        self._wants_look = self._opened = self._detaching = False
        self._looked_at = monotonic()
        # When the call of the storage began that is being made now, in seconds of time.monotonic.
        self._since: float | None = None
        self._reported_since: float | None = None
        self._attached = SignalSafeEvent()
        self._name = f"prodpool-breaker-{pool}"
        # One wake that waits is enough, for it works off all there is. A flush waits in the same queue.
        self._thread = CallQueue(
            self._name, capacity=8, failed=partial(on_error, "breaker"), lost=lambda: None, rest=_REST
        )
        super().__init__(
            spec,
            pool=pool,
            monotonic=monotonic,
            hung_after=hung_after,
            on_change=on_change,
            on_error=on_error,
        )
        self.shared = False  # no caller waits for the application

    # -- for submitters and workers ------------------------------------------------------------------------

    @property
    def state(self) -> BreakerState:
        """The state that the thread has seen last; an open breaker whose time is up is half-open."""
        self._look_soon()
        return super().state

    def acquire(self) -> Permit:
        """Return the right to run one task, to be given to `record` or `release`.

        Raises:
            BreakerOpenError: As for `Breaker`, unless the storage has not answered for `UNRESPONSIVE_AFTER`
                seconds.
        """
        self._look_soon()
        try:
            return super().acquire()
        except BreakerOpenError:
            if not self._is_unresponsive():
                raise
        return NO_GENERATION

    def success_may_hang(self, permit: Permit) -> bool:  # noqa: ARG002
        """Return False: `record` never waits."""
        return False

    def record(self, permit: Permit, exception: BaseException | None, duration: float) -> None:
        """Have the thread record how the task of ``permit`` ended."""
        probe = isinstance(permit, Probe)
        if not probe and permit != self._generation:
            return
        outcome = _Outcome(permit, exception, duration)
        with self._lock:
            if self._says_nothing_new(outcome):
                return
            has_room = len(self._waiting) < CAPACITY and not self._detaching
            if has_room:
                self._waiting.append(outcome)
        if has_room:
            self._thread.post(self._work)
        else:
            self.release(permit)
            self._on_lost()

    def _says_nothing_new(self, outcome: _Outcome) -> bool:
        """Tell whether a success follows another one that still waits, and no listener counts them."""
        if outcome.exception is not None or isinstance(outcome.permit, Probe) or not self._waiting:
            return False
        last, circuit = self._waiting[-1], cast("ExternalCircuit", self._circuit)
        return (
            last is not None
            and last.exception is None
            and last.permit == outcome.permit
            and not circuit.has_other_listeners()
        )

    def _half_open(self) -> None:
        with self._lock:
            if not self._due():
                return
            self._enter("half_open", f"it was open for {self._circuit.open_for:g} s")
            self._waiting.append(None)
        self._thread.post(self._work)

    def _look_soon(self) -> None:
        now = self._monotonic()
        if self._opened and now - self._looked_at >= LOOK_EVERY:
            self._looked_at, self._wants_look = now, True
            self._thread.post(self._work)

    def _is_unresponsive(self) -> bool:
        since = self._since
        if since is None or time.monotonic() - since < UNRESPONSIVE_AFTER:
            return False
        if since != self._reported_since:
            self._reported_since = since
            why = f"the breaker's storage has not answered for {UNRESPONSIVE_AFTER:g} s: tasks are admitted"
            self._report(TimeoutError(why))
        return True

    # -- for the engine ------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the thread, which stays until `close`."""
        self._thread.open()
        self._opened = True

    def ensure_thread(self) -> None:
        """Start the thread, or wake it, if that has failed. For the watchdog."""
        if self._waiting and self._since is None:
            self._thread.post(self._work)
        self._thread.ensure_thread()

    def flush(self, timeout: float) -> bool:
        """Wait until the storage has heard of all outcomes there are; False after ``timeout`` seconds."""
        return self._thread.flush(timeout)

    def close(self, timeout: float) -> None:
        """Wait for the same, count what still waits after ``timeout`` seconds as lost, and let the thread go.

        A storage that has not answered for `UNRESPONSIVE_AFTER` seconds is not waited for.
        """
        self._opened = False
        self._thread.close(0.0 if self._is_unresponsive() else timeout)
        with self._lock:
            lost = sum(outcome is not None for outcome in self._waiting)
            self._waiting.clear()
        for _ in range(lost):
            self._on_lost()

    def detach(self) -> None:
        """Have the thread detach from the circuit breaker, and wait briefly; a second time is harmless."""
        self._detaching = True
        self._thread.post(self._work)
        self._thread.flush(DETACH_TIMEOUT)

    def forked(self, lock: Any) -> None:
        """Disable it in a forked child; the parent's thread feeds what waits."""
        self._opened = False
        self._waiting = deque()
        super().forked(lock)

    # -- in the thread -------------------------------------------------------------------------------------

    def _attach(self) -> None:
        thread = threading.Thread(target=self._attach_here, name=self._name, daemon=True)
        try:
            try:
                start_thread(thread)
            except RuntimeError:
                self._attach_here()  # the system has no thread to give
            else:
                thread.join(FIRST_LOOK)
        except BaseException:
            self.detach()
            raise
        if not thread.is_alive():
            # It was so when the pool was made, and has not changed.
            with self._lock:
                self._changes.clear()
        self._announce_changes()

    def _attach_here(self) -> None:
        circuit, state = self._circuit, "closed"
        try:
            with self._circuit_lock:
                try:
                    state = STATES[circuit.breaker.current_state]
                finally:
                    if not self._detaching:
                        circuit.breaker.add_listener(self._listener)
                        circuit.guard()
                if state != "closed":
                    self._enter(state, self._why_open)
        except BaseException as error:  # noqa: BLE001  # a storage's
            self._report(error)
        finally:
            self._attached.set()

    def _work(self) -> None:
        """Do all there is to do."""
        while (step := self._next_step()) is not None:
            self._since = time.monotonic()
            try:
                self._attached.wait(math.inf)
                step()
            except BaseException as error:  # noqa: BLE001  # whatever it was, the next outcome is fed
                self._report(error)
            finally:
                self._since = None
                # Not kept while the thread waits: an exception holds the frames that it came through.
                del step

    def _next_step(self) -> Callable[[], object] | None:
        with self._lock:
            if self._waiting:
                outcome = self._waiting.popleft()
                return self._half_open_storage if outcome is None else partial(super().record, *outcome)
        if self._detaching:
            is_attached = self._listener in self._circuit.breaker.listeners or not self._attached.wait(0.0)
            return super().detach if is_attached else None
        if self._wants_look:
            self._wants_look = False
            return self._look
        return None

    def _look(self) -> None:
        with self._circuit_lock:
            self._change_state(FOUND_IN_STORAGE, self._read)
        self._announce_changes()

    def _half_open_storage(self) -> None:
        with self._circuit_lock:
            self._change_state(FOUND_IN_STORAGE, self._half_open_if_open)
        self._announce_changes()

    def _half_open_if_open(self) -> None:
        # Another host may have closed it meanwhile.
        if self._read() == pybreaker.STATE_OPEN:
            self._circuit.breaker.half_open()

    def _read(self) -> str:
        # pybreaker compares what it finds with what it had, and tells its listeners.
        return self._circuit.breaker.state.name

    def _on_state_change(self, name: str) -> None:
        with self._lock:
            # The pool may have been half-open for a while when the storage is.
            if not (STATES[name] == self._state == "half_open"):
                super()._on_state_change(name)


def make_breaker(spec: Any, *, on_lost: Callable[[], None], **rest: Any) -> Breaker | None:
    """Make the breaker of a pool of what it was given; None for None. The rest is passed on to `Breaker`.

    Raises:
        TypeError: ``spec`` is neither a policy nor a circuit breaker.
    """
    if spec is None:
        return None
    if isinstance(spec, pybreaker.CircuitBreaker) and not has_memory_storage(spec):
        return DeferredBreaker(spec, on_lost=on_lost, **rest)
    return Breaker(spec, **rest)
