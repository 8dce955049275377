"""`BreakerPolicy`: when a breaker trips, how long it stays open and what closes it again."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["BreakerPolicy"]


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: pass a whole number of 1 or more")


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: pass a finite number of seconds above 0")


def _rate(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f"{name}={value!r}: pass a share above 0 and up to 1, or None to turn it off")


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakerPolicy:
    """When a pool stops offering tasks to a failing dependency, and how it tries it again.

    Any one of the three trip conditions opens the breaker. Rejections, cancellations and ``exclude`` are
    neither success nor failure.

    Attributes:
        consecutive_failures: Failures in a row that trip; None turns this condition off.
        failure_rate: Share of failures in the window that trips, above 0 and up to 1; None turns it off.
        slow_call_rate: Share of slow calls in the window that trips, above 0 and up to 1; None turns it off.
        slow_after: Seconds from which a call is slow; goes with ``slow_call_rate``. A slow probe opens again.
        window: How many of the latest calls the two rates look at.
        minimum_calls: Calls that must be in the window before a rate is believed.
        open_for: Seconds from a trip until a probe is let through.
        half_open_permits: Probes that may be out at once.
        successes_to_close: Successful probes that close the breaker.
        exclude: Exception types that say nothing about the dependency's health.

    Raises:
        ValueError: an argument is out of range, or no trip condition is left.
        TypeError: ``exclude`` is not a tuple of exception types.
    """

    consecutive_failures: int | None = 5
    failure_rate: float | None = None
    slow_call_rate: float | None = None
    slow_after: float | None = None
    window: int = 100
    minimum_calls: int = 20
    open_for: float = 30.0
    half_open_permits: int = 1
    successes_to_close: int = 1
    exclude: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Reject values that would fail, or silently do nothing, later."""
        for name in ("window", "minimum_calls", "half_open_permits", "successes_to_close"):
            _count(name, getattr(self, name))
        _seconds("open_for", self.open_for)
        self._check_conditions()
        self._check_exclude()

    def _check_conditions(self) -> None:
        if self.consecutive_failures is not None:
            _count("consecutive_failures", self.consecutive_failures)
        for name in ("failure_rate", "slow_call_rate"):
            if getattr(self, name) is not None:
                _rate(name, getattr(self, name))
        if self.slow_after is not None:
            _seconds("slow_after", self.slow_after)
        if (self.slow_call_rate is None) != (self.slow_after is None):
            raise ValueError(
                f"slow_call_rate={self.slow_call_rate!r}, slow_after={self.slow_after!r}: "
                "one means nothing without the other; pass both or neither"
            )
        if self.consecutive_failures is None and self.failure_rate is None and self.slow_call_rate is None:
            raise ValueError(
                "consecutive_failures=None, failure_rate=None, slow_call_rate=None: this never trips; "
                "set one of them, or give the pool breaker=None"
            )
        if self.has_window and self.minimum_calls > self.window:
            raise ValueError(
                f"minimum_calls={self.minimum_calls!r} is more than window={self.window!r} ever holds, "
                "so no rate would count; pass minimum_calls <= window"
            )

    def _check_exclude(self) -> None:
        exclude: object = self.exclude
        if not isinstance(exclude, tuple) or not all(
            isinstance(item, type) and issubclass(item, BaseException) for item in exclude
        ):
            raise TypeError(
                f"exclude={self.exclude!r}: pass a tuple of exception types, such as exclude=(KeyError,)"
            )

    @property
    def has_window(self) -> bool:
        """Whether a condition looks at the latest calls as a whole."""
        return self.failure_rate is not None or self.slow_call_rate is not None
