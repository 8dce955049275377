"""BreakerPolicy refuses, when it is made, what could only fail or do nothing later."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from prodpool.admission.breaker.policy import BreakerPolicy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"consecutive_failures": 0}, "consecutive_failures=0: pass a whole number of 1 or more"),
        ({"consecutive_failures": True}, "consecutive_failures=True"),
        ({"consecutive_failures": 2.5}, "consecutive_failures=2.5"),
        ({"failure_rate": 0}, "failure_rate=0: pass a share above 0 and up to 1"),
        ({"failure_rate": 50}, "failure_rate=50"),
        ({"failure_rate": "half"}, "failure_rate='half'"),
        ({"failure_rate": math.nan}, "failure_rate=nan"),
        ({"slow_call_rate": 1.5, "slow_after": 1}, "slow_call_rate=1.5"),
        ({"slow_call_rate": 0.5, "slow_after": -1}, "slow_after=-1: pass a finite number of seconds above 0"),
        ({"slow_call_rate": 0.5}, "slow_after=None: one means nothing without the other"),
        ({"slow_after": 2.0}, "slow_call_rate=None, slow_after=2.0: one means nothing"),
        ({"window": 0}, "window=0"),
        ({"minimum_calls": 0}, "minimum_calls=0"),
        ({"failure_rate": 0.5, "window": 10}, "minimum_calls=20 is more than window=10 ever holds"),
        ({"open_for": 0}, "open_for=0: pass a finite number of seconds above 0"),
        ({"open_for": math.inf}, "open_for=inf"),
        ({"open_for": None}, "open_for=None"),
        ({"half_open_permits": 0}, "half_open_permits=0"),
        ({"successes_to_close": -3}, "successes_to_close=-3"),
        ({"consecutive_failures": None}, "never trips; set one of them, or give the pool breaker=None"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_value(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument, its value and what would do."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        BreakerPolicy(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize("exclude", [KeyError, [KeyError], (KeyError, "x"), (int,), (KeyError(),)], ids=repr)
def test_bad_exclude(exclude: Any) -> None:
    """Anything but a tuple of exception types is refused with the way out."""
    with pytest.raises(TypeError, match=r"exclude=.*: pass a tuple of exception types"):
        BreakerPolicy(exclude=exclude)


def test_good_values() -> None:
    """One trip condition is enough, and the window's numbers do not matter without a rate."""
    assert BreakerPolicy().consecutive_failures == 5
    assert BreakerPolicy(consecutive_failures=None, failure_rate=1).has_window
    assert BreakerPolicy(consecutive_failures=None, slow_call_rate=0.1, slow_after=1).has_window
    assert not BreakerPolicy(window=5).has_window


def test_frozen_and_keyword_only() -> None:
    """A policy cannot change under the pool that uses it, and its numbers cannot be mixed up."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        BreakerPolicy().window = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        BreakerPolicy(5)  # type: ignore[call-arg]
