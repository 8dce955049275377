"""The breaker over a policy: closed, open, half-open, and what may not count."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from dataclasses import dataclass

import pytest

from prodpool.admission.breaker.breaker import Breaker
from prodpool.admission.breaker.permit import Permit, Probe
from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.errors import PoolFullError, RejectedError
from prodpool.task.outcomes import Reason
from tests.admission.breakers import HUNG_AFTER, half_open, make
from tests.helpers.tasks import TaskError

NOT_FAILURES = [
    pytest.param(PoolFullError(pool="other", queued=1, queue_capacity=1), id="rejected"),
    pytest.param(concurrent.futures.CancelledError(), id="cancelled"),
    pytest.param(asyncio.CancelledError(), id="cancelled-asyncio"),
    pytest.param(KeyError("missing"), id="excluded"),
    pytest.param(type("Derived", (KeyError,), {})(), id="excluded-subclass"),
]


# -- closed ------------------------------------------------------------------------------------------------


def test_failures_in_a_row_trip() -> None:
    """The fifth failure in a row opens the breaker, and that is announced once with its reason."""
    rig = make()
    rig.fail(4)
    assert rig.breaker.state == "closed"
    rig.fail()
    assert rig.breaker.state == "open"
    assert rig.changes == [("closed", "open", "consecutive failures: 5")]


def test_a_success_starts_the_count_again() -> None:
    """Failures with a success among them are not in a row."""
    rig = make()
    for _ in range(10):
        rig.fail(4)
        rig.succeed()
    assert rig.breaker.state == "closed"
    rig.fail(5)
    assert rig.moves == ["open"]


@pytest.mark.parametrize("panic", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_a_panic_is_a_failure(panic: BaseException) -> None:
    """A task that raises a bare BaseException counts against the dependency and raises nothing here."""
    rig = make(BreakerPolicy(consecutive_failures=2))
    rig.run(panic)
    rig.run(panic)
    assert rig.moves == ["open"]
    assert rig.errors == []


@pytest.mark.parametrize("exception", NOT_FAILURES)
def test_not_a_failure(exception: BaseException) -> None:
    """Rejections, cancellations and excluded exceptions neither count nor start the count again."""
    rig = make(BreakerPolicy(consecutive_failures=2, exclude=(KeyError,)))
    for _ in range(10):
        rig.run(exception)
    assert rig.breaker.state == "closed"
    rig.fail()
    rig.run(exception)
    rig.fail()
    assert rig.moves == ["open"]


def test_the_exception_is_left_as_it_was() -> None:
    """Counting a failure adds nothing to the traceback or the context that its owner will see."""
    rig = make(BreakerPolicy(consecutive_failures=2))
    first = TaskError()
    try:
        raise first
    except TaskError:
        trace = first.__traceback__
        try:
            raise LookupError  # noqa: TRY301
        except LookupError:
            rig.run(first)
            rig.run(first)
    assert rig.moves == ["open"]
    assert first.__traceback__ is trace
    assert (first.__context__, first.__cause__) == (None, None)


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses every assignment."""

    key: str


def test_a_frozen_exception_is_a_failure() -> None:
    """An exception to which nothing can be assigned counts like any other and is left as it was."""
    rig = make(BreakerPolicy(consecutive_failures=2))
    error = FrozenError("a")
    rig.run(error)
    rig.run(error)
    assert (rig.moves, rig.errors) == (["open"], [])
    assert (error.__traceback__, error.__context__) == (None, None)


def test_healthy_path_takes_no_lock_and_reads_no_clock() -> None:
    """While closed with no failure counted, acquire and record take no lock and leave pybreaker alone."""

    class Untouchable:
        def __enter__(self) -> None:
            pytest.fail("took a lock")

        def __exit__(self, *details: object) -> None: ...

    rig = make()
    rig.breaker._lock = rig.breaker._circuit_lock = Untouchable()  # type: ignore[assignment]
    rig.breaker._monotonic = lambda: pytest.fail("read the clock")
    rig.succeed(3)


# -- open --------------------------------------------------------------------------------------------------


def test_open_refuses_with_the_time_left() -> None:
    """While open every acquire is refused, and retry_after shrinks as the clock moves."""
    rig = make(BreakerPolicy(open_for=30))
    rig.fail(5)
    waits = []
    for _ in range(4):
        error = rig.refused()
        assert (error.pool, error.reason) == ("mail", Reason.BREAKER_OPEN)
        waits.append(error.retry_after)
        rig.clock.advance(7.5)
    assert waits == [30.0, 22.5, 15.0, 7.5]
    assert isinstance(rig.breaker.acquire(), Probe)


def test_refusal_says_why_it_is_open() -> None:
    """The refused caller reads what tripped the breaker."""
    rig = make()
    rig.fail(5)
    assert rig.refused().why == "open, consecutive failures: 5"


def test_retry_after_is_enough() -> None:
    """Whoever waits exactly retry_after is let through, and a moment before is not."""
    rig = make(BreakerPolicy(open_for=0.3))
    rig.fail(5)
    rig.clock.advance(0.29)
    left = rig.refused().retry_after
    assert left is not None
    assert left == pytest.approx(0.01)
    rig.clock.advance(left + 1e-9)
    assert isinstance(rig.breaker.acquire(), Probe)


@pytest.mark.parametrize("number", range(64))
def test_retry_after_is_never_more_than_open_for(number: int) -> None:
    """A wait that is told at once is open_for exactly, at whatever time the breaker opened."""
    rig = make(BreakerPolicy(open_for=1), start=random.Random(number).uniform(1000, 1_000_000))  # noqa: S311
    rig.fail(5)
    assert rig.refused().retry_after == 1.0


def test_state_goes_half_open_by_time_alone() -> None:
    """The state says what the next acquire would find, though nobody has called yet."""
    rig = make()
    rig.fail(5)
    rig.clock.advance(29.9)
    assert rig.breaker.state == "open"
    rig.clock.advance(0.1)
    assert rig.breaker.state == "half_open"
    assert rig.moves == ["open"]  # nothing has moved yet, so nothing is announced


# -- half-open ---------------------------------------------------------------------------------------------


def test_a_good_probe_closes() -> None:
    """One successful probe closes the breaker, with every step announced in order."""
    rig = half_open()
    probe = rig.probe()
    rig.breaker.record(probe, None, 0.1)
    assert rig.breaker.state == "closed"
    assert rig.changes == [
        ("closed", "open", "consecutive failures: 5"),
        ("open", "half_open", "it was open for 30 s"),
        ("half_open", "closed", "enough probes succeeded"),
    ]
    rig.fail(4)  # the count begins at 0 again
    assert rig.breaker.state == "closed"


def test_a_bad_probe_opens_again() -> None:
    """A failed probe opens the breaker for the whole time again."""
    rig = half_open()
    rig.clock.advance(5)
    rig.breaker.record(rig.probe(), TaskError(), 0.1)
    assert rig.changes[-1] == ("half_open", "open", "a probe raised TaskError")
    assert rig.refused().retry_after == 30.0


@pytest.mark.parametrize("permits", [1, 3])
def test_permits_bound_the_probes(permits: int) -> None:
    """At most half_open_permits probes are out at once; the next caller is told when to come back."""
    rig = half_open(BreakerPolicy(half_open_permits=permits))
    probes = [rig.probe() for _ in range(permits)]
    assert len(set(probes)) == permits
    error = rig.refused()
    assert error.retry_after == 30.0
    assert error.why == f"half-open, all permits ({permits}) are out with probes"


def test_successes_to_close() -> None:
    """The breaker closes only after successes_to_close probes, one after the other here."""
    rig = half_open(BreakerPolicy(successes_to_close=3))
    for _ in range(2):
        rig.breaker.record(rig.probe(), None, 0.1)
        assert rig.breaker.state == "half_open"
    rig.breaker.record(rig.probe(), None, 0.1)
    assert rig.breaker.state == "closed"


def test_an_unused_probe_is_given_back() -> None:
    """A probe whose task never ran frees its permit; giving it back twice frees it once."""
    rig = half_open()
    first = rig.probe()
    rig.refused()
    rig.breaker.release(first)
    rig.breaker.release(first)
    rig.probe()
    rig.breaker.release(first)
    rig.refused()
    assert rig.breaker.state == "half_open"


def test_a_closed_permit_can_be_given_back() -> None:
    """Releasing a permit of a closed breaker, as often as one likes, changes nothing."""
    rig = make()
    permit = rig.breaker.acquire()
    rig.breaker.release(permit)
    rig.breaker.release(permit)
    rig.fail(5)
    assert rig.moves == ["open"]


@pytest.mark.parametrize("exception", NOT_FAILURES)
def test_a_probe_that_proves_nothing(exception: BaseException) -> None:
    """A probe that ends in a rejection, a cancellation or an excluded exception returns its permit unused."""
    rig = half_open(BreakerPolicy(exclude=(KeyError,)))
    rig.breaker.record(rig.probe(), exception, 0.1)
    assert rig.breaker.state == "half_open"
    rig.breaker.record(rig.probe(), None, 0.1)
    assert rig.breaker.state == "closed"


def test_a_lost_probe_is_given_up() -> None:
    """A probe without an answer for hung_after makes way for a fresh one, and its late answer is ignored."""
    rig = half_open()
    lost = rig.probe()
    rig.clock.advance(HUNG_AFTER - 1)
    assert rig.refused().retry_after == 1.0
    rig.clock.advance(1)
    fresh = rig.probe()
    rig.breaker.record(lost, TaskError(), 61)
    assert rig.breaker.state == "half_open"
    rig.breaker.release(lost)
    rig.refused()  # the fresh one still holds the only permit
    rig.breaker.record(fresh, None, 0.1)
    assert rig.breaker.state == "closed"


def test_a_late_probe_nobody_has_replaced_counts() -> None:
    """A late answer is news as long as no other probe was sent in its place."""
    rig = half_open()
    late = rig.probe()
    rig.clock.advance(2 * HUNG_AFTER)
    rig.breaker.record(late, None, 2 * HUNG_AFTER)
    assert rig.breaker.state == "closed"


# -- answers from before a change --------------------------------------------------------------------------


def test_stale_failures_do_not_open() -> None:
    """Failures of tasks admitted before a trip do not count after the recovery."""
    rig = make()
    old = [rig.breaker.acquire() for _ in range(20)]
    rig.fail(5)
    rig.clock.advance(30)
    rig.run()
    assert rig.moves == ["open", "half_open", "closed"]
    for permit in old:
        rig.breaker.record(permit, TaskError(), 40)
    assert rig.breaker.state == "closed"
    rig.fail(4)
    assert rig.breaker.state == "closed"


@pytest.mark.parametrize("exception", [None, TaskError()], ids=["success", "failure"])
def test_stale_answers_move_neither_open_nor_half_open(exception: BaseException | None) -> None:
    """A task admitted while closed neither closes nor re-opens a breaker that has tripped since."""
    rig = make()
    old: list[Permit] = [rig.breaker.acquire() for _ in range(2)]
    rig.fail(5)
    rig.clock.advance(10)
    rig.breaker.record(old[0], exception, 10)
    assert rig.refused().retry_after == 20.0
    rig.clock.advance(20)
    rig.probe()
    rig.breaker.record(old[1], exception, 30)
    assert rig.breaker.state == "half_open"
    rig.refused()


def test_stale_probes_count_for_nothing() -> None:
    """A probe of an earlier half-open time is neither a success nor a freed permit in a later one."""
    rig = half_open(BreakerPolicy(half_open_permits=2))
    old = rig.probe()
    rig.breaker.record(rig.probe(), TaskError(), 0.1)
    rig.clock.advance(30)
    rig.probe()
    rig.probe()
    rig.breaker.record(old, None, 31)
    assert rig.breaker.state == "half_open"
    rig.refused()


def test_stale_success_does_not_start_the_count_again() -> None:
    """A success from before a trip does not reset failures counted since the recovery."""
    rig = make()
    old = rig.breaker.acquire()
    rig.fail(5)
    rig.clock.advance(30)
    rig.run()
    rig.fail(4)
    rig.breaker.record(old, None, 40)
    rig.fail()
    assert rig.moves[-1] == "open"


# -- around it ---------------------------------------------------------------------------------------------


def test_on_change_is_called_outside_all_locks() -> None:
    """Whoever hears of a change may use the breaker, even from another thread it waits for."""
    rig = make(BreakerPolicy(consecutive_failures=1))
    seen: list[str] = []

    def hear(*_: str) -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            seen.append(other.submit(lambda: rig.breaker.state).result(timeout=10))

    rig.breaker._on_change = hear
    rig.fail()
    rig.clock.advance(30)
    rig.run()
    assert seen == ["open", "half_open", "closed"]


def test_on_change_that_raises_stays_inside() -> None:
    """A callback that raises is reported and neither the task nor the breaker notices."""
    rig = make(BreakerPolicy(consecutive_failures=1))
    gone = OSError("log disk full")

    def hear(*_: str) -> None:
        raise gone

    rig.breaker._on_change = hear
    rig.fail()
    assert rig.breaker.state == "open"
    assert rig.errors == [("breaker", gone)]


def test_on_error_that_raises_stays_inside() -> None:
    """Even the report of an error may fail without harm."""
    rig = make(BreakerPolicy(consecutive_failures=1))

    def fail(*_: object) -> None:
        raise OSError

    rig.breaker._on_change = rig.breaker._on_error = fail
    rig.fail()
    assert rig.breaker.state == "open"


def test_refusal_is_a_rejection() -> None:
    """Callers that catch RejectedError catch an open breaker."""
    rig = make(BreakerPolicy(consecutive_failures=1))
    rig.fail()
    assert isinstance(rig.refused(), RejectedError)


def test_something_else_as_breaker() -> None:
    """Anything but a policy or a circuit breaker is refused with the way out."""
    with pytest.raises(TypeError, match=r"breaker='on': pass a BreakerPolicy, a pybreaker.CircuitBreaker"):
        make("on")  # type: ignore[arg-type]


def test_repr() -> None:
    """The representation tells pool, state and probes."""
    rig = half_open()
    rig.probe()
    assert repr(rig.breaker) == "<Breaker 'mail' half_open probes=1>"
    assert isinstance(rig.breaker, Breaker)
