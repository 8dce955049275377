"""A breaker on a clock of its own that writes down what it announces and reports."""

from __future__ import annotations

from dataclasses import dataclass, field

import pybreaker
import pytest

from prodpool.admission.breaker.breaker import Breaker
from prodpool.admission.breaker.permit import Permit, Probe
from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.concurrency.clock import ManualClock
from prodpool.errors import BreakerOpenError
from tests.helpers.tasks import TaskError

HUNG_AFTER = 60.0


@dataclass
class Rig:
    breaker: Breaker
    clock: ManualClock
    changes: list[tuple[str, str, str]]
    errors: list[tuple[str, BaseException]] = field(default_factory=list)

    @property
    def moves(self) -> list[str]:
        """The states gone through since the start."""
        return [new for _, new, _ in self.changes]

    def run(self, exception: BaseException | None = None, duration: float = 0.0) -> None:
        self.breaker.record(self.breaker.acquire(), exception, duration)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.run(TaskError())

    def succeed(self, times: int = 1) -> None:
        for _ in range(times):
            self.run()

    def probe(self) -> Permit:
        permit = self.breaker.acquire()
        assert isinstance(permit, Probe)
        return permit

    def refused(self) -> BreakerOpenError:
        with pytest.raises(BreakerOpenError) as caught:
            self.breaker.acquire()
        return caught.value


def make(spec: BreakerPolicy | pybreaker.CircuitBreaker | None = None, *, start: float = 1000.0) -> Rig:
    clock = ManualClock(start)
    changes: list[tuple[str, str, str]] = []
    errors: list[tuple[str, BaseException]] = []
    breaker = Breaker(
        BreakerPolicy() if spec is None else spec,
        pool="mail",
        monotonic=clock.monotonic,
        hung_after=HUNG_AFTER,
        on_change=lambda old, new, why: changes.append((old, new, why)),
        on_error=lambda sink, error: errors.append((sink, error)),
    )
    return Rig(breaker, clock, changes, errors)


def half_open(spec: BreakerPolicy | pybreaker.CircuitBreaker | None = None) -> Rig:
    """A rig whose breaker has tripped and whose time is up."""
    rig = make(spec)
    while rig.breaker.state == "closed":
        rig.fail()
    rig.clock.advance(rig.refused().retry_after or 0.0)
    assert rig.breaker.state == "half_open"
    return rig
