"""The breaker's window: failure rate, slow calls, and the minimum before a rate is believed."""

from __future__ import annotations

import random
from collections import deque

import pytest

from prodpool.admission.breaker.outcome_window import OutcomeWindow
from prodpool.admission.breaker.policy import BreakerPolicy
from tests.admission.breakers import half_open, make
from tests.helpers.tasks import TaskError

RATE = BreakerPolicy(consecutive_failures=None, failure_rate=0.5, window=10, minimum_calls=6)
SLOW = BreakerPolicy(
    consecutive_failures=None, slow_call_rate=0.5, slow_after=2.0, window=10, minimum_calls=4
)


def test_failure_rate_trips() -> None:
    """Half of the calls failing trips, though never two in a row."""
    rig = make(RATE)
    for _ in range(3):
        assert rig.breaker.state == "closed"
        rig.fail()
        rig.succeed()
    assert rig.changes == [("closed", "open", "3 of the last 6 calls failed (failure_rate=0.5)")]


def test_failure_rate_below_its_limit() -> None:
    """Four failures in ten, for ever, trip nothing."""
    rig = make(RATE)
    for _ in range(20):
        rig.succeed(6)
        rig.fail(4)
    assert rig.breaker.state == "closed"


def test_minimum_calls() -> None:
    """However bad, the first calls are too few to judge by."""
    rig = make(RATE)
    rig.fail(5)
    assert rig.breaker.state == "closed"
    rig.fail()
    assert rig.moves == ["open"]


def test_a_success_can_complete_the_minimum() -> None:
    """The verdict falls when the minimum is reached, also when that call was a good one."""
    rig = make(RATE)
    rig.fail(5)
    rig.succeed()
    assert rig.moves == ["open"]


def test_the_window_forgets() -> None:
    """Only the latest calls count."""
    rig = make(RATE)
    rig.succeed(6)
    rig.fail(4)
    rig.succeed(6)
    rig.fail(4)
    assert rig.breaker.state == "closed"
    rig.fail()
    assert rig.moves == ["open"]


def test_failures_in_a_row_and_a_rate() -> None:
    """Both conditions hold at once, and each trips by itself."""
    policy = BreakerPolicy(consecutive_failures=3, failure_rate=0.5, window=10, minimum_calls=10)
    rig = make(policy)
    rig.succeed(2)
    rig.fail(3)
    assert rig.changes[0][2] == "consecutive failures: 3"
    other = make(policy)
    for _ in range(5):
        other.fail()
        other.succeed()
    assert other.changes[0][2] == "5 of the last 10 calls failed (failure_rate=0.5)"


def test_one_trip_for_two_reasons() -> None:
    """A call that meets both conditions opens the breaker once."""
    rig = make(BreakerPolicy(consecutive_failures=6, failure_rate=0.5, window=10, minimum_calls=6))
    rig.fail(6)
    assert rig.changes == [("closed", "open", "consecutive failures: 6")]
    assert rig.breaker._generation == 2


def test_slow_calls_trip() -> None:
    """Calls that succeed but take slow_after or longer trip the breaker."""
    rig = make(SLOW)
    for duration in (0.1, 1.99, 2.0, 30.0):
        assert rig.breaker.state == "closed"
        rig.run(duration=duration)
    assert rig.changes == [("closed", "open", "2 of the last 4 calls were slow (slow_call_rate=0.5)")]


def test_fast_failures_are_not_slow() -> None:
    """With the slow-call rate alone, failures do not trip."""
    rig = make(SLOW)
    rig.fail(50)
    assert rig.breaker.state == "closed"


def test_slow_failures_are_slow() -> None:
    """A call that fails after a long time counts as slow."""
    rig = make(SLOW)
    for _ in range(4):
        rig.run(TaskError(), 3.0)
    assert rig.moves == ["open"]


def test_slow_probe_opens_again() -> None:
    """A probe that succeeds too slowly has not proved the dependency well."""
    rig = make(SLOW)
    for _ in range(4):
        rig.run(duration=3.0)
    rig.clock.advance(30)
    rig.breaker.record(rig.probe(), None, 2.5)
    assert rig.changes[-1] == ("half_open", "open", "a probe took 2.5 s")
    assert rig.refused().retry_after == 30.0
    rig.clock.advance(30)
    rig.breaker.record(rig.probe(), None, 1.0)
    assert rig.breaker.state == "closed"


def test_recovery_starts_with_an_empty_window() -> None:
    """Outcomes from before a trip do not weigh on the time after it."""
    rig = half_open(RATE)
    rig.breaker.record(rig.probe(), None, 0.1)
    rig.fail(5)
    assert rig.breaker.state == "closed"


def test_excluded_exceptions_stay_out_of_the_window() -> None:
    """An excluded exception is neither a good nor a bad call."""
    rig = make(
        BreakerPolicy(
            consecutive_failures=None, failure_rate=0.5, window=10, minimum_calls=6, exclude=(KeyError,)
        )
    )
    for _ in range(50):
        rig.run(KeyError())
    rig.fail(5)
    assert rig.breaker.state == "closed"
    rig.fail()
    assert rig.moves == ["open"]


def test_stale_answers_stay_out_of_the_window() -> None:
    """A call admitted before a trip is not in the window after it."""
    rig = make(RATE)
    old = [rig.breaker.acquire() for _ in range(10)]
    rig.fail(6)
    rig.clock.advance(30)
    rig.run()
    for permit in old:
        rig.breaker.record(permit, TaskError(), 30)
    assert rig.breaker.state == "closed"


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_window_against_a_plain_count(size: int) -> None:
    """The running sums equal a recount of the last calls, for any sequence."""
    chance = random.Random(size)  # noqa: S311
    last: deque[tuple[bool, bool]] = deque(maxlen=size)
    window = OutcomeWindow(size, minimum=1, failure_rate=0.6, slow_call_rate=0.6)
    for step in range(2_000):
        if step % 500 == 499:
            window.clear()
            last.clear()
        outcome = (chance.random() < 0.5, chance.random() < 0.5)
        last.append(outcome)
        verdict = window.add(failed=outcome[0], slow=outcome[1])
        failed, slow = (sum(column) for column in zip(*last, strict=True))
        assert (window._failed, window._slow, window._count) == (failed, slow, len(last))
        assert (verdict is not None) == (max(failed, slow) / len(last) >= 0.6)


def test_a_rate_is_met_exactly() -> None:
    """Three of ten meets a failure rate of 0.3, whatever the rounding of 0.3 x 10."""
    window = OutcomeWindow(10, minimum=10, failure_rate=0.3, slow_call_rate=None)
    verdicts = [window.add(failed=number < 3, slow=False) for number in range(10)]
    assert verdicts == [None] * 9 + ["3 of the last 10 calls failed (failure_rate=0.3)"]
