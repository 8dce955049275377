"""The `pybreaker.CircuitBreaker` behind a pool's breaker: one made from a policy, or the user's own.

The user's own keeps everything it was given. Only what could raise into a task or a submitter, or would
misjudge an exception, is put behind a guard: its listeners, its predicates and its excluded classes with a
metaclass, which pybreaker takes for predicates that exclude everything. A guard equals what it guards, so
``remove_listener`` and ``remove_excluded_exception`` find it as before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, cast

from pybreaker import (
    STATE_CLOSED,
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitMemoryStorage,
)

from prodpool.admission.breaker.feeding import OutcomeError, is_judged
from prodpool.admission.breaker.outcome_window import OutcomeWindow
from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.config.exception_classes import CANCELLED_ERRORS, ExceptionClasses
from prodpool.errors import RejectedError, stands_for
from prodpool.text import shown

__all__ = ["Circuit", "ExternalCircuit", "PolicyCircuit", "ReportError", "StateListener", "circuit_for"]

ReportError = Callable[[BaseException], None]

_NO_OUTCOME: ExceptionClasses = (RejectedError, *CANCELLED_ERRORS)


class StateListener(CircuitBreakerListener):
    """The pool's own listener: passes the name of each new state on."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        """Call ``heard`` with "closed", "open" or "half-open", under pybreaker's lock."""
        self._on_state_change = heard

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
        """Pass the new state on."""
        self._on_state_change(new_state.name)


class _GuardedListener(CircuitBreakerListener):
    def __init__(self, listener: CircuitBreakerListener, report: ReportError) -> None:
        self.guarded = listener
        self.report = report

    def __eq__(self, other: object) -> bool:
        return other is self or other == self.guarded

    def __hash__(self) -> int:
        return hash(self.guarded)

    def before_call(self, cb: CircuitBreaker, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        heard = [arg.original if isinstance(arg, OutcomeError) else arg for arg in args]
        self._tell(self.guarded.before_call, cb, func, *heard, **kwargs)

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        self._tell(self.guarded.failure, cb, exc.original if isinstance(exc, OutcomeError) else exc)

    def success(self, cb: CircuitBreaker) -> None:
        self._tell(self.guarded.success, cb)

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        self._tell(self.guarded.state_change, cb, old_state, new_state)

    def _tell(self, event: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        try:
            event(*args, **kwargs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001
            self.report(error)


class _GuardedExclusion:
    def __init__(self, exclusion: object, report: ReportError) -> None:
        self.guarded = exclusion
        self.report = report

    def __eq__(self, other: object) -> bool:
        return other is self or other == self.guarded

    def __hash__(self) -> int:
        return hash(self.guarded)

    def __call__(self, exception: BaseException) -> bool:
        return not is_judged(exception) and self.covers(exception)

    def covers(self, exception: BaseException) -> bool:
        try:
            if isinstance(self.guarded, type):
                return isinstance(exception, self.guarded)
            return bool(cast("Callable[[BaseException], object]", self.guarded)(exception))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001
            self.report(error)
            return False


class Circuit:
    """A circuit breaker and the numbers the pool drives it by; as it stands here, those of a user's own."""

    breaker: CircuitBreaker
    skips_success = False
    """Whether a success changes nothing while no failure is counted and there is no window."""
    shared = False
    """Whether the application holds it too, with listeners, predicates or a storage of its own."""
    half_open_permits = 1
    slow_after = math.inf
    window: OutcomeWindow | None = None

    @property
    def open_for(self) -> float:
        """Seconds from a trip until a probe is let through; pybreaker itself would go by the wall clock."""
        return self.breaker.reset_timeout

    def needs_outcome(self, exception: BaseException | None) -> bool:
        """Whether this outcome of a call would change anything, or be heard, while closed."""
        raise NotImplementedError

    def excludes(self, exception: BaseException) -> bool:
        """Whether ``exception`` says nothing about the dependency."""
        raise NotImplementedError

    def guard(self) -> None:
        """Wrap the listeners that have no guard yet; needs pybreaker's lock."""

    def unguard(self) -> None:
        """Unwrap the listeners; needs pybreaker's lock."""


class PolicyCircuit(Circuit):
    """A breaker made from a `BreakerPolicy`, with a memory of its own; only the pool holds it."""

    skips_success = True

    def __init__(self, policy: BreakerPolicy, *, pool: str) -> None:
        """Make the circuit and, where the policy wants rates, the window."""
        self.breaker = CircuitBreaker(
            fail_max=policy.consecutive_failures or sys.maxsize,
            reset_timeout=policy.open_for,
            success_threshold=policy.successes_to_close,
            state_storage=CircuitMemoryStorage(STATE_CLOSED),
            name=pool,
        )
        self.half_open_permits = policy.half_open_permits
        self.slow_after = math.inf if policy.slow_after is None else policy.slow_after
        self.window: OutcomeWindow | None = None
        if policy.has_window:
            self.window = OutcomeWindow(
                policy.window,
                minimum=policy.minimum_calls,
                failure_rate=policy.failure_rate,
                slow_call_rate=policy.slow_call_rate,
            )
        self._exclude = (*_NO_OUTCOME, *policy.exclude)
        self._counts_in_a_row = policy.consecutive_failures is not None

    def needs_outcome(self, exception: BaseException | None) -> bool:
        """Whether this outcome of a call would change anything in pybreaker's closed state."""
        return self._counts_in_a_row and (exception is not None or self.breaker.fail_counter != 0)

    def excludes(self, exception: BaseException) -> bool:
        """Whether ``exception`` says nothing about the dependency."""
        return isinstance(exception, self._exclude) or stands_for(exception, self._exclude)


def has_memory_storage(breaker: CircuitBreaker) -> bool:
    """Tell whether the state is in this process, so that to read or to change it takes no time."""
    # Private: pybreaker does not show its storage (D12).
    return type(getattr(breaker, "_state_storage", None)) is CircuitMemoryStorage


class ExternalCircuit(Circuit):
    """A `CircuitBreaker` the user made, shared with its other users."""

    shared = True

    def __init__(self, breaker: CircuitBreaker, *, report: ReportError) -> None:
        """Take ``breaker`` as it is; ``report`` hears what the guards catch."""
        self.breaker = breaker
        self._report = report
        self._guarding = True
        # Another kind may be shared with other hosts, whose failures only it knows: it hears all outcomes.
        self._alone = has_memory_storage(breaker)

    def guard(self) -> None:
        """Wrap the listeners that have no guard yet; needs pybreaker's lock, or an event could be missed."""
        if not self._guarding:
            return
        for listener in self.breaker.listeners:
            if type(listener) not in (StateListener, _GuardedListener):
                self._replace_listener(listener, _GuardedListener(listener, self._report))
        for exclusion in self._exclusions():
            if type(exclusion) not in (type, _GuardedExclusion):
                self._replace_exclusion(exclusion, _GuardedExclusion(exclusion, self._report))

    def unguard(self) -> None:
        """Give the circuit breaker back as it came, for it may outlive the pool; needs pybreaker's lock."""
        self._guarding = False
        for listener in self.breaker.listeners:
            if isinstance(listener, _GuardedListener) and listener.report is self._report:
                self._replace_listener(listener, listener.guarded)
        for exclusion in self._exclusions():
            if isinstance(exclusion, _GuardedExclusion) and exclusion.report is self._report:
                self._replace_exclusion(exclusion, exclusion.guarded)

    def needs_outcome(self, exception: BaseException | None) -> bool:
        """Whether this outcome of a call would change anything, or be heard, while closed."""
        breaker = self.breaker
        return (
            exception is not None
            or not self._alone
            or len(breaker.listeners) > 1  # another besides ours
            or breaker.fail_counter != 0
        )

    def excludes(self, exception: BaseException) -> bool:
        """Whether ``exception`` says nothing about the dependency."""
        classes = [each for each in self._exclusions() if isinstance(each, type)]
        return (
            isinstance(exception, _NO_OUTCOME)
            or stands_for(exception, (*_NO_OUTCOME, *classes))
            or any(
                (
                    exclusion
                    if isinstance(exclusion, _GuardedExclusion)
                    else _GuardedExclusion(exclusion, self._report)
                ).covers(exception)
                for exclusion in self._exclusions()
            )
        )

    def has_other_listeners(self) -> bool:
        """Whether somebody besides the pools hears of each outcome."""
        return any(type(listener) is not StateListener for listener in self.breaker.listeners)

    def _exclusions(self) -> tuple[object, ...]:
        return cast("tuple[object, ...]", self.breaker.excluded_exceptions)

    def _replace_listener(self, old: CircuitBreakerListener, new: CircuitBreakerListener) -> None:
        self.breaker.remove_listener(old)
        self.breaker.add_listener(new)

    def _replace_exclusion(self, old: object, new: object) -> None:
        # pybreaker takes predicates here too; its annotations do not say so.
        self.breaker.remove_excluded_exception(cast("Any", old))
        self.breaker.add_excluded_exception(cast("Any", new))


def circuit_for(spec: object, *, pool: str, report: ReportError) -> Circuit:
    """Return the circuit for what a pool was given.

    Raises:
        TypeError: ``spec`` is neither a policy nor a circuit breaker.
    """
    if isinstance(spec, BreakerPolicy):
        return PolicyCircuit(spec, pool=pool)
    if isinstance(spec, CircuitBreaker):
        return ExternalCircuit(spec, report=report)
    raise TypeError(f"breaker={shown(spec)}: pass a BreakerPolicy, a pybreaker.CircuitBreaker or None")
