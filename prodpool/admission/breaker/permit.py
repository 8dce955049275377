"""What a breaker gives a task that may run, and the states that decide which."""

from __future__ import annotations

from typing import Literal, TypeAlias

import pybreaker

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]

STATES: dict[str, BreakerState] = {
    pybreaker.STATE_CLOSED: "closed",
    pybreaker.STATE_OPEN: "open",
    pybreaker.STATE_HALF_OPEN: "half_open",
}


class Probe:
    """The right of one task to try a dependency under suspicion."""

    __slots__ = ()


Permit: TypeAlias = int | Probe
"""While closed the number of the generation, which costs nothing; half-open a `Probe`."""
