"""The breaker under many threads: no outcome lost, no permit leaked, one trip per trip."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import pybreaker
import pytest

from prodpool.admission.breaker.permit import Permit, Probe
from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.errors import BreakerOpenError
from tests.admission.breakers import Rig, half_open, make
from tests.helpers.tasks import TaskError

THREADS = 8
MOVES = {("closed", "open"), ("open", "half_open"), ("half_open", "open"), ("half_open", "closed")}


@pytest.fixture(autouse=True)
def switching() -> Iterator[None]:
    """Switch threads a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def together(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Run ``work(number)`` in every thread, all starting at once, and raise what one of them raised."""
    start = threading.Barrier(threads)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        start.wait(30)
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    crew = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(50)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("permits", [1, 3])
def test_probes_admitted_at_once(permits: int) -> None:
    """Of many that ask at the same moment, exactly half_open_permits get a probe."""
    for _ in range(20):
        rig = half_open(BreakerPolicy(half_open_permits=permits))
        got: list[Permit] = []

        def ask(_: int, rig: Rig = rig, got: list[Permit] = got) -> None:
            try:
                got.append(rig.breaker.acquire())
            except BreakerOpenError:
                return

        together(ask)
        assert len(got) == permits
        assert all(isinstance(permit, Probe) for permit in got)
        assert rig.moves == ["open", "half_open"]


def test_one_trip() -> None:
    """Failures that arrive at the same moment open the breaker once."""
    rig = make(BreakerPolicy(consecutive_failures=3, failure_rate=0.5, minimum_calls=3))
    permits = [rig.breaker.acquire() for _ in range(THREADS)]
    together(lambda number: rig.breaker.record(permits[number], TaskError(), 0.1))
    assert rig.moves == ["open"]


def test_no_failure_is_lost() -> None:
    """Every failure from every thread is counted, in pybreaker's count and in the window."""
    rig = make(BreakerPolicy(consecutive_failures=10**6, failure_rate=1, window=10_000, minimum_calls=10_000))

    def fail(_: int) -> None:
        rig.fail(300)

    together(fail)
    assert rig.breaker._circuit.breaker.fail_counter == THREADS * 300
    assert rig.breaker._circuit.window is not None
    assert rig.breaker._circuit.window._failed == THREADS * 300


def test_no_event_is_lost() -> None:
    """A listener hears each outcome of each thread once."""
    heard = {"success": 0, "failure": 0}

    class Counting(pybreaker.CircuitBreakerListener):
        def success(self, cb: Any) -> None:  # noqa: ARG002
            heard["success"] += 1

        def failure(self, cb: Any, exc: BaseException) -> None:  # noqa: ARG002
            heard["failure"] += 1

    rig = make(pybreaker.CircuitBreaker(fail_max=10**6, listeners=cast("Any", [Counting()])))

    def run(_: int) -> None:
        for _round in range(200):
            rig.fail()
            rig.succeed(2)

    together(run)
    assert heard == {"success": THREADS * 400, "failure": THREADS * 200}


def test_the_way_past_the_locks_is_shut_while_a_failure_counts() -> None:
    """After any mixture of outcomes, a success still starts the count again when one failure is counted."""
    rig = make(BreakerPolicy(consecutive_failures=10**6))

    def run(number: int) -> None:
        chance = random.Random(number)  # noqa: S311
        for _ in range(500):
            rig.run(TaskError() if chance.random() < 0.5 else None)

    together(run)
    rig.fail()
    assert rig.breaker._circuit.breaker.fail_counter >= 1
    rig.succeed()
    assert rig.breaker._circuit.breaker.fail_counter == 0


def hammer(rig: Rig, number: int, permits: int, rounds: int = 2_000) -> None:
    """Acquire, and then record, release or lose the permit, while time goes by."""
    chance = random.Random(number)  # noqa: S311
    waits: list[float | None] = []
    for _ in range(rounds):
        rig.clock.advance(chance.random() * 0.2)
        try:
            permit = rig.breaker.acquire()
        except BreakerOpenError as error:
            waits.append(error.retry_after)
            continue
        assert len(rig.breaker._probes) <= permits
        match chance.randrange(10):
            case 0 | 1:
                rig.breaker.release(permit)
                rig.breaker.release(permit)
            case 2 | 3 | 4:
                rig.breaker.record(permit, TaskError(), 0.1)
            case 5:
                rig.breaker.record(permit, KeyError(), 0.1)
            case 6 if isinstance(permit, Probe):
                pass  # lost: nobody will ever answer for it
            case _:
                rig.breaker.record(permit, None, 0.1)
    assert all(wait is not None and 0 <= wait <= 1 for wait in waits)


@pytest.mark.parametrize(
    ("spec", "permits"),
    [
        (lambda: BreakerPolicy(consecutive_failures=2, open_for=1, exclude=(KeyError,)), 1),
        (
            lambda: BreakerPolicy(
                consecutive_failures=3,
                failure_rate=0.4,
                window=20,
                minimum_calls=5,
                open_for=1,
                half_open_permits=3,
                successes_to_close=2,
                exclude=(KeyError,),
            ),
            3,
        ),
        (lambda: pybreaker.CircuitBreaker(fail_max=2, reset_timeout=1, exclude=[KeyError]), 1),
        (
            lambda: pybreaker.CircuitBreaker(
                fail_max=2,
                reset_timeout=1,
                exclude=[KeyError],
                listeners=cast("Any", [pybreaker.CircuitBreakerListener()]),
            ),
            1,
        ),
    ],
    ids=["policy", "policy with rates", "own", "own with listener"],
)
def test_permits_never_leak(
    spec: Callable[[], BreakerPolicy | pybreaker.CircuitBreaker], permits: int
) -> None:
    """Many trips with lost and unused probes later, no permit is missing and the changes form one chain."""
    rig = make(spec())
    together(lambda number: hammer(rig, number, permits))
    announced = [("", "closed", ""), *rig.changes]
    assert all(new == old for (_, new, _), (old, _, _) in pairwise(announced))
    assert {(old, new) for old, new, _ in rig.changes} == MOVES
    assert announced[-1][1] in {rig.breaker.state, "open"}
    assert rig.errors == []

    # A closed breaker's window may be full of failures, with which even a success can complete the minimum.
    while rig.breaker.state == "closed":
        rig.fail()
    rig.clock.advance(60)  # whatever was lost is given up by now
    for _ in range(2):
        rig.run()
    assert rig.breaker.state == "closed"
    assert rig.breaker._probes == {}


def test_forced_from_outside_all_the_while() -> None:
    """Whoever opens, half-opens and closes a breaker in use makes nothing hang and no permit leak."""
    own = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=1, exclude=[KeyError])
    rig = make(own)

    def work(number: int) -> None:
        if number:
            hammer(rig, number, 1, rounds=400)
            return
        chance = random.Random(number)  # noqa: S311
        for _ in range(300):
            chance.choice([own.open, own.half_open, own.close])()

    together(work)
    own.close()
    assert rig.breaker.state == "closed"
    announced = [("", "closed", ""), *rig.changes]
    assert all(new == old for (_, new, _), (old, _, _) in pairwise(announced))
    assert rig.errors == []
    assert rig.breaker._probes == {}
    rig.fail(2)
    assert rig.breaker.state == "open"
