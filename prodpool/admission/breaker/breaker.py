"""The breaker: asked for a permit at admission, told the outcome at settlement.

pybreaker keeps the state; no task runs inside it, because `CircuitBreaker.call` holds its lock while the
function runs. Every change of state starts a new generation, so that an answer from before the change is
known for what it is. Half-open is a matter of permits: each probe holds one until it answers, is returned
unused, or has been out for ``hung_after`` when another task needs it.

Locks, outer to inner: pybreaker's own (every change of its state, and what listeners do), then
`Breaker._lock` (the pool's view of that state). `on_change` is called after both are released.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import pybreaker

from prodpool.admission.breaker.circuits import StateListener, circuit_for
from prodpool.admission.breaker.feeding import feed
from prodpool.admission.breaker.permit import STATES, BreakerState, Permit, Probe
from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.concurrency.interrupts import meant_for_thread
from prodpool.errors import BreakerOpenError
from prodpool.text import type_name

__all__ = ["FOUND_IN_STORAGE", "Breaker"]

_OUTSIDE = "changed from outside the pool"
FOUND_IN_STORAGE = "found changed in its storage"


class Breaker:
    """Drives one `pybreaker.CircuitBreaker` for one pool.

    Threads: safe from any thread, also from inside a listener.
    Cost: 0.12 us for `acquire` and `record` together while closed and healthy, 1.1 us with a window, 1 us for
        a plain circuit breaker (CPython 3.11, 2026-11).
    Source: Nygard, Release It!, 2nd edition, "Circuit Breaker"; generations after sony/gobreaker
    """

    _feed = staticmethod(feed)

    # Long, since each of its fields needs a word on what guards it.
    def __init__(
        self,
        spec: BreakerPolicy | pybreaker.CircuitBreaker,
        *,
        pool: str,
        monotonic: Callable[[], float],
        hung_after: float,
        on_change: Callable[[str, str, str], None],
        on_error: Callable[[str, BaseException], None],
    ) -> None:
        """Take over from the state ``spec`` is in.

        Args:
            spec: A policy, or a circuit breaker that keeps its own numbers, listeners and storage.
            pool: Name of the pool, for errors.
            monotonic: Seconds that never run backwards.
            hung_after: Seconds after which a probe that has not answered is given up.
            on_change: Called with old state, new state and why, outside all locks. A change made from outside
                is announced at the next call of any method or the next look at `state`.
            on_error: Called with ``"breaker"`` and what the user's listener, predicate or storage raised.

        Raises:
            TypeError: ``spec`` is neither a policy nor a circuit breaker.
        """
        self._pool = pool
        self._monotonic = monotonic
        self._hung_after = hung_after
        self._on_change = on_change
        self._on_error = on_error
        self._circuit = circuit_for(spec, pool=pool, report=self._report)
        # Whether the application may hold pybreaker's lock, or run a listener, for any time.
        self.shared = self._circuit.shared
        # Private, but the only way to check the generation and feed pybreaker in one step. A lock of our own
        # around its lock would deadlock with a listener that submits to this pool.
        own: AbstractContextManager[object] = threading.RLock()
        lock = getattr(self._circuit.breaker, "_lock", own)
        self._circuit_lock = cast("AbstractContextManager[object]", lock)
        self._cause: str | None = None  # guarded by _circuit_lock; None outside of `_change_state`

        self._lock = threading.RLock()  # reentrant: a signal handler may submit while its thread is in here
        # Guarded by _lock:
        self._generation = 1
        self._opened_at = monotonic()
        self._why_open = "it was open when the pool was made"
        self._probes: dict[Probe, float] = {}  # those out, with the time of their grant
        self._changes: deque[tuple[BreakerState, BreakerState, str]] = deque()  # not announced yet
        # Set under _lock, read without: the generation while closed and announced, and the same while,
        # besides, a success would change nothing.
        self._closed_generation: int | None = None
        self._skips_success: int | None = None
        self._announcing = threading.RLock()  # never waited for; one that who does not hold it cannot release

        self._state: BreakerState = "closed"
        self._listener = StateListener(self._on_state_change)
        self._attach()

    def _attach(self) -> None:
        with self._circuit_lock:
            self._state = STATES[self._circuit.breaker.current_state]
            self._circuit.breaker.add_listener(self._listener)
            self._circuit.guard()  # moves the listeners that it guards behind ours
        self._announce_changes()

    def __repr__(self) -> str:
        """Show the state and what is out."""
        return f"<Breaker {self._pool!r} {self._state} probes={len(self._probes)}>"

    @property
    def state(self) -> BreakerState:
        """The state the next `acquire` would find; an open breaker whose time is up is half-open."""
        if self._changes:
            self._announce_changes()
        with self._lock:
            return "half_open" if self._due() else self._state

    def acquire(self) -> Permit:
        """Return the right to run one task, to be given to `record` or `release`.

        Raises:
            BreakerOpenError: open, or half-open with every permit out; ``retry_after`` is the seconds until
                the next probe, at most.
        """
        generation = self._closed_generation
        return self._acquire_unless_open() if generation is None else generation

    def release(self, permit: Permit) -> None:
        """Take back a permit whose task did not run; a second time is harmless."""
        if isinstance(permit, Probe):
            with self._lock:
                self._probes.pop(permit, None)

    def success_may_hang(self, permit: Permit) -> bool:
        """Tell whether `record` of a success may have to wait for the application."""
        return self.shared and (isinstance(permit, Probe) or self._circuit.needs_outcome(None))

    def record(self, permit: Permit, exception: BaseException | None, duration: float) -> None:
        """Record how the task of ``permit`` ended; an outcome that comes too late is ignored.

        Args:
            permit: What `acquire` returned.
            exception: What the task raised, or None.
            duration: Seconds the task ran.
        """
        if exception is None and permit == self._skips_success:
            return
        if isinstance(permit, Probe):
            self._record_probe(permit, exception, duration)
        elif permit == self._generation:
            self._record_call(permit, exception, duration)

    def detach(self) -> None:
        """Detach from the circuit breaker, which may outlive the pool; a second time is harmless."""
        with self._circuit_lock:
            self._circuit.unguard()
            if self._listener in self._circuit.breaker.listeners:
                self._circuit.breaker.remove_listener(self._listener)

    def forked(self, lock: Any) -> None:
        """Disable it in a forked child, where any lock may be held for ever; uses meet ``lock`` instead.

        The application's own circuit breaker goes on in there, with a lock that nobody holds.
        """
        self._circuit_lock = threading.RLock()
        circuit: Any = self._circuit.breaker
        if hasattr(circuit, "_lock"):
            circuit._lock = self._circuit_lock  # noqa: SLF001  # see __init__
        Breaker.detach(self)  # now, while another kind has a thread do it
        self._lock = self._circuit_lock = lock

    # -- closed --------------------------------------------------------------------------------------------

    def _record_call(self, generation: int, exception: BaseException | None, duration: float) -> None:
        circuit = self._circuit
        if exception is not None and circuit.excludes(exception):
            return
        trip = None
        if circuit.window is not None:
            with self._lock:
                if generation != self._generation:
                    return
                trip = circuit.window.add(failed=exception is not None, slow=duration >= circuit.slow_after)
        if trip is None and not circuit.needs_outcome(exception):
            return
        with self._circuit_lock:
            if generation == self._generation and circuit.needs_outcome(exception):
                in_a_row = f"consecutive failures: {circuit.breaker.fail_max}"
                cause = FOUND_IN_STORAGE if exception is None else in_a_row
                self._change_state(cause, self._feed, circuit.breaker, exception)
            if trip is not None and generation == self._generation:
                self._change_state(trip, circuit.breaker.open)
        self._announce_changes()

    # -- open and half-open --------------------------------------------------------------------------------

    def _acquire_unless_open(self) -> Permit:
        if self._due():
            self._half_open()
        self._announce_changes()
        probe = Probe()
        try:
            with self._lock:
                if self._state == "closed":
                    return self._generation
                now = self._monotonic()
                if self._state == "half_open" and self._permit_free(now):
                    self._probes[probe] = now
                    return probe
                refusal = self._refusal(now)
        except BaseException:
            # What a signal handler raised, say: this one would never be returned.
            self.release(probe)
            raise
        try:
            raise refusal
        finally:
            # This frame is in its traceback, and the arguments of the call are in the frames above.
            del refusal

    def _due(self) -> bool:
        with self._lock:
            return self._state == "open" and self._monotonic() - self._opened_at >= self._circuit.open_for

    def _half_open(self) -> None:
        with self._circuit_lock:
            # A listener that submits while pybreaker tells of this very change must not start it once more.
            if self._cause is not None or not self._due():
                return
            why = f"it was open for {self._circuit.open_for:g} s"
            self._change_state(why, self._circuit.breaker.half_open)
            if self._due():  # the storage raised: ask it again when the time is up again, not at every submit
                with self._lock:
                    self._opened_at = self._monotonic()

    def _permit_free(self, now: float) -> bool:
        if len(self._probes) >= self._circuit.half_open_permits:
            lost = [probe for probe, granted in self._probes.items() if now - granted >= self._hung_after]
            for probe in lost:
                del self._probes[probe]
        return len(self._probes) < self._circuit.half_open_permits

    def _refusal(self, now: float) -> BreakerOpenError:
        open_for = self._circuit.open_for
        if self._state == "open":
            # What has passed is taken first: the other way round, rounding may end above open_for.
            wait, why = open_for - (now - self._opened_at), f"open, {self._why_open}"
        else:
            # A probe that fails opens for open_for; one that never answers is given up after hung_after.
            wait = min(open_for, self._hung_after - (now - min(self._probes.values())))
            why = f"half-open, all permits ({len(self._probes)}) are out with probes"
        return BreakerOpenError(pool=self._pool, retry_after=max(wait, 0.0), why=why)

    def _record_probe(self, probe: Probe, exception: BaseException | None, duration: float) -> None:
        circuit = self._circuit
        if exception is not None and circuit.excludes(exception):
            self.release(probe)
            return
        with self._circuit_lock:
            if probe not in self._probes:  # given up, or from before a change of state
                return
            try:
                if exception is not None:
                    why = f"a probe raised {type_name(exception)}"
                    self._change_state(why, self._feed, circuit.breaker, exception)
                elif duration >= circuit.slow_after:
                    self._change_state(f"a probe took {duration:.3g} s", circuit.breaker.open)
                else:
                    self._change_state("enough probes succeeded", self._feed, circuit.breaker, None)
            finally:
                # Not before pybreaker has judged it: a freed permit would let one more probe in meanwhile.
                self.release(probe)
        self._announce_changes()

    # -- changes of state ----------------------------------------------------------------------------------

    def _change_state(self, cause: str, act: Callable[..., object], *args: object) -> None:
        """Have pybreaker do ``act``; needs _circuit_lock. Errors of the user's parts do not get out."""
        outer, self._cause = self._cause, cause
        try:
            self._circuit.guard()
            act(*args)
        except BaseException as error:
            # Listeners and predicates have guards of their own: only a storage raises here.
            if isinstance(error, KeyboardInterrupt) or meant_for_thread(error):
                raise
            self._report(error)
        finally:
            self._cause = outer

    def _on_state_change(self, name: str) -> None:
        """Follow pybreaker into the state ``name``; its lock is held by the thread that changes it."""
        self._enter(STATES[name], self._cause or _OUTSIDE)

    def _enter(self, new: BreakerState, why: str) -> None:
        with self._lock:
            old = self._state
            self._state = new
            self._generation += 1
            self._closed_generation = self._skips_success = None
            self._probes.clear()
            if self._circuit.window is not None:
                self._circuit.window.clear()
            if new == "open":
                self._opened_at, self._why_open = self._monotonic(), why
            if new != old:
                self._changes.append((old, new, why))

    def _announce_changes(self) -> None:
        """Announce the changes, then enable the path without locks if there is one."""
        # A thread that changes the state holds pybreaker's lock, and comes by here after its release.
        free = True
        while free and self._changes and self._cause is None:
            try:
                # Within the `try`: a signal handler may raise when it is taken and that is not known yet.
                free = self._announcing.acquire(blocking=False)
                while free and self._changes:
                    self._announce(*self._changes.popleft())
            finally:
                try:  # noqa: SIM105  # making a context manager would be a call
                    self._announcing.release()
                except RuntimeError:  # another thread has it
                    pass
        with self._lock:
            # A change that is not announced yet closes the fast way, so that the next acquire comes by here.
            self._closed_generation = (
                self._generation if self._state == "closed" and not self._changes else None
            )
            in_a_row = self._circuit.breaker.fail_counter if self._circuit.skips_success else 1
            self._skips_success = (
                None if in_a_row or self._circuit.window is not None else self._closed_generation
            )

    def _announce(self, old: BreakerState, new: BreakerState, why: str) -> None:
        try:
            self._on_change(old, new, why)
        except Exception as error:  # noqa: BLE001
            self._report(error)

    def _report(self, error: BaseException) -> None:
        # It is the last resort: there is nowhere left to report to.
        with contextlib.suppress(Exception):
            self._on_error("breaker", error)
