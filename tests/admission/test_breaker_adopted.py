"""A pybreaker.CircuitBreaker of the user's own: it keeps what it was given, and cannot hurt a task."""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pybreaker
import pytest

from prodpool.admission.breaker.permit import Probe
from prodpool.errors import BreakerOpenError
from tests.admission.breakers import Rig, half_open, make
from tests.helpers.tasks import TaskError


class Recorder(pybreaker.CircuitBreakerListener):
    """Writes every event down; raises ``error`` after that, where there is one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.events: list[str] = []
        self._error = error

    def _note(self, event: str) -> None:
        self.events.append(event)
        if self._error is not None:
            raise self._error

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._note("before_call")

    def failure(self, cb: Any, exc: BaseException) -> None:  # noqa: ARG002
        self._note(f"failure {type(exc).__name__}")

    def success(self, cb: Any) -> None:  # noqa: ARG002
        self._note("success")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
        self._note(f"{old_state.name} -> {new_state.name}")


class Abstract(abc.ABC):  # noqa: B024
    """Exceptions registered here are business as usual."""


@Abstract.register
class RegisteredError(Exception):
    pass


class Meta(type):
    pass


class MetaclassedError(Exception, metaclass=Meta):
    pass


def circuit(exclude: Iterable[object] = (), **options: Any) -> pybreaker.CircuitBreaker:
    return pybreaker.CircuitBreaker(exclude=cast("Any", list(exclude)), **options)


# -- its own numbers ---------------------------------------------------------------------------------------


def test_its_numbers_hold() -> None:
    """fail_max, reset_timeout and success_threshold are the circuit breaker's."""
    rig = make(circuit(fail_max=2, reset_timeout=7, success_threshold=2))
    rig.fail(2)
    assert rig.refused().retry_after == 7.0
    rig.clock.advance(7)
    rig.breaker.record(rig.probe(), None, 0.1)
    assert rig.breaker.state == "half_open"
    rig.breaker.record(rig.probe(), None, 0.1)
    assert rig.moves == ["open", "half_open", "closed"]


def test_a_success_starts_its_count_again() -> None:
    """Without listeners too, a success between failures keeps it closed."""
    rig = make(circuit(fail_max=3))
    for _ in range(5):
        rig.fail(2)
        rig.succeed()
    assert rig.breaker.state == "closed"


def test_its_numbers_may_change_later() -> None:
    """Numbers set on the circuit breaker while the pool runs take effect."""
    own = circuit(fail_max=50, reset_timeout=600)
    rig = make(own)
    rig.fail(2)
    own.fail_max, own.reset_timeout = 3, 5
    rig.fail()
    assert rig.refused().retry_after == 5.0


def test_one_probe_at_a_time() -> None:
    """Half-open, the pool tries one task at a time, as pybreaker does."""
    rig = half_open(circuit())
    rig.probe()
    rig.refused()


def test_monotonic_time_decides() -> None:
    """Neither a wall clock that jumps ahead opens the way early, nor one that jumps back keeps it shut."""
    own = circuit(fail_max=1, reset_timeout=60)
    rig = make(own)
    rig.fail()
    storage = cast("Any", own)._state_storage
    storage.opened_at = datetime.now(UTC) - timedelta(days=1)
    rig.refused()
    storage.opened_at = datetime.now(UTC) + timedelta(days=1)
    rig.clock.advance(60)
    rig.run()
    assert rig.breaker.state == "closed"


def test_its_storage_is_used() -> None:
    """Failures and states are kept in the storage it came with."""
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    rig = make(circuit(fail_max=3, state_storage=storage))
    rig.fail(2)
    assert storage.counter == 2
    rig.fail()
    assert storage.state == "open"


def test_it_may_come_open() -> None:
    """A circuit breaker that is open when the pool is made is open for its whole time from then on."""
    own = circuit(reset_timeout=9)
    own.open()
    rig = make(own)
    assert rig.breaker.state == "open"
    assert rig.refused().retry_after == 9.0
    assert rig.refused().why == "open, it was open when the pool was made"
    rig.clock.advance(9)
    rig.run()
    assert rig.moves == ["half_open", "closed"]


# -- exclusion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exclusion", "excluded"),
    [
        pytest.param(KeyError, KeyError(), id="class"),
        pytest.param(LookupError, KeyError(), id="base class"),
        pytest.param(Abstract, RegisteredError(), id="registered with an ABC"),
        pytest.param(MetaclassedError, MetaclassedError(), id="class with a metaclass"),
        pytest.param(lambda error: error.args == (404,), TaskError(404), id="predicate"),
    ],
)
def test_exclusion(exclusion: object, excluded: BaseException) -> None:
    """What its exclude names does not count, and everything else does."""
    own = circuit([exclusion], fail_max=2)
    rig = make(own)
    for _ in range(5):
        rig.run(excluded)
    assert rig.breaker.state == "closed"
    rig.fail()
    rig.run(excluded)
    rig.fail()
    assert rig.moves == ["open"]
    rig.clock.advance(60)
    rig.breaker.record(rig.probe(), excluded, 0.1)
    assert rig.breaker.state == "half_open"
    rig.run()
    assert rig.breaker.state == "closed"
    assert rig.errors == []


def test_exclusion_added_and_taken_away_later() -> None:
    """Exclusions may come and go while the pool runs, guarded or not."""
    own = circuit([Abstract], fail_max=2)
    rig = make(own)
    own.add_excluded_exception(MetaclassedError)
    for _ in range(4):
        rig.run(MetaclassedError())
        rig.run(RegisteredError())
    assert rig.breaker.state == "closed"
    own.remove_excluded_exception(cast("Any", Abstract))
    rig.run(RegisteredError())
    assert MetaclassedError in own.excluded_exceptions
    own.remove_excluded_exception(MetaclassedError)
    rig.run(MetaclassedError())
    assert rig.moves == ["open"]


def test_a_predicate_is_asked_once_outside_the_lock() -> None:
    """A predicate is called once per exception and may take its time, for the lock is free."""
    asked: list[bool] = []

    def predicate(_: BaseException) -> bool:
        other = threading.Thread(target=lambda: asked.append(own.fail_counter >= 0 and bool(own.call(bool))))
        other.start()
        other.join(timeout=10)
        return False

    own = circuit([predicate], fail_max=2)
    rig = make(own)
    rig.fail()
    assert asked == [False]


@pytest.mark.parametrize("error", [ValueError("bad predicate"), SystemExit(3)], ids=repr)
def test_a_predicate_that_raises(error: BaseException) -> None:
    """A predicate that raises is reported once per outcome, and the outcome counts as a failure."""

    def predicate(_: BaseException) -> bool:
        raise error

    rig = make(circuit([predicate], fail_max=2))
    rig.fail(2)
    assert rig.moves == ["open"]
    assert rig.errors == [("breaker", error)] * 2


# -- listeners ---------------------------------------------------------------------------------------------


def test_listeners_hear_everything() -> None:
    """A listener hears outcomes and changes as if pybreaker itself had run the tasks."""
    listener = Recorder()
    rig = make(circuit(fail_max=2, listeners=[listener]))
    rig.succeed(2)
    rig.fail(2)
    rig.refused()
    rig.clock.advance(60)
    rig.run()
    assert listener.events == [
        "before_call", "success",
        "before_call", "success",
        "before_call", "failure TaskError",
        "before_call", "failure TaskError", "closed -> open",
        "open -> half-open",
        "before_call", "half-open -> closed", "success",
    ]  # fmt: skip


def test_a_listener_added_later_hears_too() -> None:
    """A listener may be added while the pool runs, and taken away again by what it is."""
    own = circuit()
    rig = make(own)
    rig.succeed(3)
    listener = Recorder()
    own.add_listener(listener)
    rig.succeed()
    assert listener.events == ["before_call", "success"]
    assert listener in own.listeners
    own.remove_listener(listener)
    rig.fail()
    assert listener.events == ["before_call", "success"]


@pytest.mark.parametrize("error", [ValueError("bad listener"), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("late", [False, True], ids=["from the start", "added later"])
def test_a_listener_that_raises(error: BaseException, *, late: bool) -> None:
    """A listener that raises at every event is reported, and the breaker trips and recovers all the same."""
    bad, good = Recorder(error), Recorder()
    own = circuit(fail_max=2, listeners=[] if late else [bad, good])
    rig = make(own)
    if late:
        own.add_listeners(bad, good)
    rig.succeed()
    rig.fail(2)
    rig.refused()
    rig.clock.advance(60)
    rig.run()
    assert rig.moves == ["open", "half_open", "closed"]
    assert good.events == bad.events
    assert rig.errors == [("breaker", error)] * len(bad.events)


def test_ctrl_c_in_a_listener_is_not_swallowed() -> None:
    """KeyboardInterrupt goes through to the thread it was meant for, and the probe it met is not lost."""
    listener = Recorder()
    own = circuit(fail_max=1, listeners=[listener])
    rig = half_open(own)
    probe = rig.probe()
    listener._error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        rig.breaker.record(probe, None, 0.1)
    listener._error = None
    rig.run()
    assert rig.moves == ["open", "half_open", "closed"]
    assert rig.errors == []


def test_a_listener_may_use_the_pool() -> None:
    """A listener that submits to the pool, from within the change, neither deadlocks nor spoils it."""
    got: list[object] = []

    class Submits(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
            try:
                got.append(rig.breaker.acquire())
            except RuntimeError as error:
                got.append(error)
            got.append(rig.breaker.state)

    rig: Rig = make(circuit(fail_max=1, listeners=[Submits()]))
    rig.fail()
    rig.clock.advance(60)
    rig.refused()  # the listener has the probe
    rig.breaker.record(cast("Any", got[2]), None, 0.1)
    assert rig.moves == ["open", "half_open", "closed"]
    assert [type(item).__name__ for item in got[::2]] == ["BreakerOpenError", "Probe", "int"]
    assert got[1::2] == ["open", "half_open", "closed"]
    assert rig.errors == []


def test_nothing_is_announced_from_within_a_listener() -> None:
    """A listener that submits makes no announcement under pybreaker's lock; it comes after."""
    free: list[bool] = []

    class Submits(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
            rig.breaker.release(rig.breaker.acquire())

    def hear(*_: str) -> None:
        lock = cast("Any", own)._lock

        def try_it() -> bool:
            return bool(lock.acquire(blocking=False)) and lock.release() is None

        with concurrent.futures.ThreadPoolExecutor(1) as other:
            free.append(other.submit(try_it).result(timeout=10))

    own = circuit(fail_max=1, listeners=[Submits()])
    rig = make(own)
    rig.breaker._on_change = hear
    rig.fail()
    rig.clock.advance(60)
    rig.run()
    assert free == [True] * 3


def test_a_listener_may_use_two_pools() -> None:
    """A listener that submits to both pools on its circuit breaker does not send them round in circles."""
    admitted: list[Probe] = []

    class Submits(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:  # noqa: ARG002
            for rig in rigs:
                with contextlib.suppress(BreakerOpenError):
                    permit = rig.breaker.acquire()
                    if isinstance(permit, Probe):
                        admitted.append(permit)

    own = circuit(fail_max=1, listeners=[Submits()])
    rigs = [make(own), make(own)]
    rigs[0].fail()
    for rig in rigs:
        rig.clock.advance(60)
    own_probe = rigs[1].probe()
    assert [rig.breaker.state for rig in rigs] == ["half_open", "half_open"]
    assert [list(rig.breaker._probes) for rig in rigs] == [admitted, [own_probe]]
    assert len(admitted) == 1
    assert [rig.errors for rig in rigs] == [[], []]


def test_a_listener_that_records_deadlocks_with_nobody() -> None:
    """A listener that settles a task under pybreaker's lock and a worker that settles another get through."""
    in_listener, started = threading.Event(), threading.Event()

    class Settles(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if threading.current_thread() is outsider and not in_listener.is_set():
                in_listener.set()
                started.wait(10)
                worker.join(0.2)  # it cannot end before we leave; the time lets it get as far as it can
                rig.fail()

    own = circuit(fail_max=9, listeners=[Settles()])
    rig = make(own)
    outsider = threading.Thread(target=own.call, args=(bool,), daemon=True)
    worker = threading.Thread(target=rig.fail, daemon=True)
    outsider.start()
    assert in_listener.wait(10)
    worker.start()
    started.set()
    for thread in (outsider, worker):
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert rig.errors == []


# -- changed from outside ----------------------------------------------------------------------------------


def test_forced_open() -> None:
    """open() from outside refuses the next task, is announced, and stales what is out."""
    own = circuit(reset_timeout=60)
    rig = make(own)
    old = rig.breaker.acquire()
    own.open()
    assert rig.refused().retry_after == 60.0
    assert rig.changes == [("closed", "open", "changed from outside the pool")]
    rig.breaker.record(old, None, 1)
    assert own.current_state == "open"


@pytest.mark.parametrize(
    "look",
    [lambda rig: rig.breaker.state, lambda rig: rig.breaker.acquire()],
    ids=["state", "acquire"],
)
def test_forced_closed(look: Callable[[Rig], object]) -> None:
    """close() from outside admits at once, and the next look of any kind announces it."""
    own = circuit(fail_max=1)
    rig = make(own)
    rig.fail()
    own.close()
    assert rig.moves == ["open"]
    look(rig)
    assert rig.changes[1:] == [("open", "closed", "changed from outside the pool")]
    rig.fail()
    assert rig.moves == ["open", "closed", "open"]


def test_a_change_while_another_thread_announces() -> None:
    """A change that could not be announced yet is announced by a later acquire."""
    own = circuit()
    rig = make(own)
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        another.submit(rig.breaker._announcing.acquire).result()
        own.open()
        own.close()
        rig.succeed()
        assert rig.moves == []
        another.submit(rig.breaker._announcing.release).result()
    rig.succeed()
    assert rig.moves == ["open", "closed"]


def test_an_interrupt_while_it_begins_to_announce() -> None:
    """A signal handler that raises the moment the right to announce is taken does not keep it for ever."""
    own = circuit()
    rig = make(own)

    class Interrupted:
        def __init__(self, lock: Any) -> None:
            self._lock, self.release = lock, lock.release

        def acquire(self, *, blocking: bool) -> bool:
            self._lock.acquire(blocking)
            rig.breaker._announcing = self._lock
            raise KeyboardInterrupt

    rig.breaker._announcing = cast("Any", Interrupted(rig.breaker._announcing))
    own.open()
    with pytest.raises(KeyboardInterrupt):
        rig.breaker.state  # noqa: B018
    own.close()
    with concurrent.futures.ThreadPoolExecutor(1) as another:
        another.submit(rig.succeed).result()
    assert rig.moves == ["open", "closed"]


def test_changed_while_a_predicate_thinks() -> None:
    """An outcome whose generation ends while it is being judged does not count any more."""

    def predicate(_: BaseException) -> bool:
        own.close()
        return False

    own = circuit([predicate], fail_max=1)
    rig = make(own)
    rig.fail()
    assert own.fail_counter == 0
    assert rig.breaker.state == "closed"


def test_forced_half_open() -> None:
    """half_open() from outside lets a probe through before the time is up."""
    own = circuit(fail_max=1)
    rig = make(own)
    rig.fail()
    own.half_open()
    assert rig.breaker.state == "half_open"
    rig.breaker.record(rig.probe(), None, 0.1)
    assert rig.moves == ["open", "half_open", "closed"]


def test_forced_open_again_starts_the_time_again() -> None:
    """open() on an open circuit breaker starts its time again, and nothing is announced."""
    own = circuit(fail_max=1, reset_timeout=10)
    rig = make(own)
    rig.fail()
    rig.clock.advance(9)
    own.open()
    assert rig.refused().retry_after == 10.0
    assert rig.moves == ["open"]


def test_calls_past_the_pool_count_too() -> None:
    """Failures of calls that others make through the circuit breaker add up with the pool's."""
    own = circuit(fail_max=3)
    rig = make(own)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            own.call(lambda: 1 / 0)
    rig.fail()
    assert rig.breaker.state == "open"


def test_a_success_of_the_pool_resets_failures_of_others() -> None:
    """In a row means in a row over everybody who uses the circuit breaker."""
    own = circuit(fail_max=2)
    rig = make(own)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            own.call(lambda: 1 / 0)
        rig.succeed()
    assert rig.breaker.state == "closed"


def test_two_pools_share_one() -> None:
    """Two pools on one circuit breaker trip together, and each announces it."""
    own = circuit(fail_max=2, listeners=[Recorder(ValueError())])
    first, second = make(own), make(own)
    first.fail()
    second.fail()
    assert (first.breaker.state, second.breaker.state) == ("open", "open")
    assert first.moves == second.moves == ["open"]
    assert second.changes[0][2] == "consecutive failures: 2"
    first.clock.advance(60)
    second.clock.advance(60)
    first.run()
    assert second.breaker.state == "closed"


# -- a storage of another kind -----------------------------------------------------------------------------


class Shared(pybreaker.CircuitMemoryStorage):
    """A storage that others may write to, and that may fail."""

    failing: BaseException | None = None

    @property
    def state(self) -> str:
        if self.failing is not None:
            raise self.failing
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        if self.failing is not None:
            raise self.failing
        self._state = state


def test_a_change_by_another_host_is_noticed() -> None:
    """What another host wrote into the storage is noticed at the next outcome, and named as the cause."""
    storage = Shared(pybreaker.STATE_CLOSED)
    rig = make(circuit(state_storage=storage))
    rig.succeed()
    storage._state, storage._opened_at = "open", datetime.now(UTC)
    rig.succeed()
    assert rig.changes == [("closed", "open", "found changed in its storage")]
    rig.refused()


def test_a_storage_that_fails() -> None:
    """A storage that raises reaches neither submitter nor task, and its breaker works again when it does."""
    storage = Shared(pybreaker.STATE_CLOSED)
    rig = make(circuit(fail_max=2, reset_timeout=10, state_storage=storage))
    rig.fail(2)
    storage.failing = ConnectionError("storage gone")
    rig.clock.advance(10)
    assert isinstance(rig.breaker.acquire(), Probe)  # it had heard of the change before the storage failed
    rig.clock.advance(60)
    rig.run()
    assert rig.errors
    assert {repr(error) for _, error in rig.errors} == {"ConnectionError('storage gone')"}
    storage.failing = None
    for _ in range(2):  # its storage still says open, which it learns from the first answer
        rig.clock.advance(10)
        rig.breaker.record(rig.breaker.acquire(), None, 0.1)
    assert rig.breaker.state == storage._state == "closed"


def test_a_storage_that_fails_before_the_change() -> None:
    """While half-opening fails, the storage is asked once per open time, not at every submit."""

    class Stubborn(pybreaker.CircuitBreaker):
        asked = 0

        def half_open(self) -> None:
            self.asked += 1
            raise ConnectionError

    own = Stubborn(fail_max=1, reset_timeout=10)
    rig = make(own)
    rig.fail()
    rig.clock.advance(10)
    for _ in range(5):
        assert rig.refused().retry_after == 10.0
    assert own.asked == len(rig.errors) == 1


# -- letting go --------------------------------------------------------------------------------------------


def test_detach_gives_it_back_as_it_came() -> None:
    """After detach the circuit breaker holds what it was given and nothing of the pool's."""
    listener = Recorder()

    def predicate(_: BaseException) -> bool:
        return False

    own = circuit([KeyError, Abstract, predicate], listeners=[listener], fail_max=2)
    rig = make(own)
    permit = rig.breaker.acquire()
    rig.fail()
    rig.breaker.detach()
    rig.breaker.detach()
    rig.breaker.record(permit, TaskError(), 1)  # an abandoned task answers after all
    assert [type(item) for item in own.listeners] == [Recorder]
    assert set(cast("Any", own.excluded_exceptions)) == {KeyError, Abstract, predicate}
    assert all(not type(item).__name__.startswith("_Guarded") for item in own.excluded_exceptions)


def test_the_lock_we_borrow_is_still_there() -> None:
    """The reentrant lock of pybreaker that makes checking and feeding one step has not gone away."""
    assert isinstance(cast("Any", circuit())._lock, type(threading.RLock()))
