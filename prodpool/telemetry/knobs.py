"""What a pool was told, as numbers for an audit or an alert: the metric ``workerpool_config``."""

from __future__ import annotations

from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.config.settings import PoolSettings

# The values of the label ``knob`` that have a number. Of the pool, an option's own name; of its policy, with
# ``breaker_`` before it. A capacity has a metric of its own, and so has the number of workers after a resize.
_OF_THE_POOL = ("max_workers", "slow_after", "hung_after", "drain_deadline", "prefetch")
_OF_THE_BREAKER = (
    "consecutive_failures",
    "failure_rate",
    "slow_call_rate",
    "slow_after",
    "open_for",
    "half_open_permits",
    "successes_to_close",
)
_OF_ITS_WINDOW = ("window", "minimum_calls")
# Those that have a choice, of a closed set each: ``overload:reject`` is 1.
_CHOICES = ("overload", "on_hang_exit")


def knobs_of(settings: PoolSettings, breaker: object) -> dict[str, float]:
    """Return the numbers and choices of a pool by knob; what is None, or has no effect, is left out.

    Seconds and counts are as the pool was told, ``math.inf`` too. ``breaker`` is its option of that name.
    """
    told = {name: getattr(settings, name) for name in _OF_THE_POOL}
    if isinstance(breaker, BreakerPolicy):
        names = (*_OF_THE_BREAKER, *(_OF_ITS_WINDOW if breaker.has_window else ()))
        told |= {f"breaker_{name}": getattr(breaker, name) for name in names}
    choices = {f"{name}:{getattr(settings, name)}": 1.0 for name in _CHOICES}
    return {name: float(number) for name, number in told.items() if number is not None} | choices
