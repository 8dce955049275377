"""A breaker whose state is not in this process: a thread feeds it, and results never wait for it."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from typing import Any, cast

import pybreaker
import pytest

from prodpool import BreakerOpenError, BreakerPolicy, InstrumentedPool
from prodpool.admission.breaker import deferred
from prodpool.admission.breaker.breaker import Breaker
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.tasks import BlockingTask, TaskError, occupy
from tests.helpers.waiting import LEEWAY, PATIENCE, poll, until
from tests.support import Logs, MakePool

OPEN_FOR = 10.0


def boom() -> None:
    raise TaskError


class GatedStorage(pybreaker.CircuitMemoryStorage):
    """Waits before each step while it is shut, raises ``failing`` if it is set, and counts resets."""

    def __init__(self, state: str = pybreaker.STATE_CLOSED) -> None:
        super().__init__(state)
        self.gate = threading.Event()
        self.gate.set()
        self.failing: BaseException | None = None
        self.resets = 0
        self.reached = threading.Event()

    def _pass(self) -> None:
        self.reached.set()
        assert self.gate.wait(PATIENCE), "the test never opened the gate"
        if self.failing is not None:
            raise self.failing

    @property
    def state(self) -> str:
        self._pass()
        return self._state

    @state.setter
    def state(self, state: str) -> None:
        self._pass()
        self._state = state

    def reset_counter(self) -> None:
        self.resets += 1
        super().reset_counter()

    def shut(self) -> None:
        """Have whoever comes wait; return once the next one has come is up to `reached`."""
        self.reached.clear()
        self.gate.clear()


@pytest.fixture
def storage(make_pool: MakePool) -> Iterator[GatedStorage]:
    """Return a storage that is open at the end, before the test's pools are stopped."""
    storage = GatedStorage()
    yield storage
    storage.failing = None
    storage.gate.set()


def circuit(storage: GatedStorage, **options: Any) -> pybreaker.CircuitBreaker:
    return pybreaker.CircuitBreaker(
        state_storage=storage, **{"fail_max": 3, "reset_timeout": OPEN_FOR, **options}
    )


def errors(pool: InstrumentedPool) -> int:
    return pool._engine.telemetry_errors.counts()["breaker"]


def feeding_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("prodpool-breaker-")]


def fail(pool: InstrumentedPool, times: int = 1) -> None:
    for _ in range(times):
        assert isinstance(pool.submit_wait(boom).exception(PATIENCE), TaskError)


class Recorder(pybreaker.CircuitBreakerListener):
    """Writes down what it is told of."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.events.extend(args)

    def failure(self, cb: Any, exc: BaseException) -> None:  # noqa: ARG002
        self.events.append(exc)

    def success(self, cb: Any) -> None:  # noqa: ARG002
        self.events.append("success")


# -- results come first ------------------------------------------------------------------------------------


def test_an_exception_is_the_tasks_own(make_pool: MakePool, storage: GatedStorage) -> None:
    """An exception that is being fed shows its task's frames alone; listeners and predicates get that one."""
    asked: list[BaseException] = []

    def predicate(error: BaseException) -> bool:
        asked.append(error)
        return False

    listener = Recorder()
    pool = make_pool(
        1, breaker=circuit(storage, exclude=cast("Any", [predicate, KeyError]), listeners=[listener])
    )
    storage.shut()
    error = pool.submit(boom).exception(PATIENCE)
    assert error is not None
    assert storage.reached.wait(PATIENCE)
    with pytest.raises(TaskError) as caught:  # raised here while the thread feeds it there
        raise error
    storage.gate.set()
    assert flush_telemetry(pool, PATIENCE)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames == ["test_an_exception_is_the_tasks_own", "boom"]
    assert asked == [error]
    assert listener.events == [error, error]  # before the call, and the failure


def test_successes_in_a_row_are_fed_as_one(make_pool: MakePool, storage: GatedStorage) -> None:
    """Successes that wait are fed as one; one behind a failure starts the count again."""
    pool = make_pool(1, queue_capacity=200, breaker=circuit(storage))
    storage.shut()
    pool.submit(int).result(PATIENCE)
    assert storage.reached.wait(PATIENCE)
    for _ in range(50):
        pool.submit(int).result(PATIENCE)
    for _ in range(4):
        fail(pool, 2)
        for _ in range(10):
            pool.submit(int).result(PATIENCE)
    storage.gate.set()
    assert flush_telemetry(pool, PATIENCE)
    assert storage.resets == 6
    assert storage.counter == 0
    assert pool.stats().breaker == "closed"


def test_a_listener_hears_each_success(make_pool: MakePool, storage: GatedStorage) -> None:
    """With a listener of the application's each outcome is fed for itself, in order."""
    listener = Recorder()
    pool = make_pool(1, queue_capacity=200, breaker=circuit(storage, listeners=[listener]))
    storage.shut()
    for _ in range(20):
        pool.submit(int).result(PATIENCE)
    error = pool.submit(boom).exception(PATIENCE)
    storage.gate.set()
    assert flush_telemetry(pool, PATIENCE)
    assert listener.events == ["success"] * 20 + [error, error]


def test_what_is_decided_waits_for_nobody(
    make_pool: MakePool, storage: GatedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While pybreaker's lock is held, no submit, result, statistic or making of a pool is held up."""
    own = circuit(storage)
    pool = make_pool(1, breaker=own)
    pool.submit(int).result(PATIENCE)
    monkeypatch.setattr(deferred, "FIRST_LOOK", 0.05)
    let_go, held = threading.Event(), threading.Event()

    def hold() -> None:
        with cast("Any", own)._lock:
            held.set()
            let_go.wait(PATIENCE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    try:
        fail(pool, 5)
        assert pool.stats().breaker == "closed"
        second = make_pool(1, breaker=own)
        assert second.submit(int).result(PATIENCE) == 0
    finally:
        let_go.set()
        holder.join(PATIENCE)
    assert flush_telemetry(pool, PATIENCE)
    assert flush_telemetry(second, PATIENCE)
    assert pool.stats().breaker == second.stats().breaker == "open"


# -- a storage that raises, or for which too much waits ----------------------------------------------------


def test_a_storage_that_raises(
    make_pool: MakePool, storage: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    """A storage that raises is counted for each outcome and reported once; tasks go on."""
    pool = make_pool(1, breaker=circuit(storage))
    storage.failing = ConnectionError("storage gone")
    fail(pool, 5)
    assert flush_telemetry(pool, PATIENCE)
    assert errors(pool) == 5
    assert pool.stats().breaker == "closed"
    assert [line for line in caplog.text.splitlines() if "storage gone" in line] == [
        "ConnectionError: storage gone"
    ]
    storage.failing = None
    fail(pool, 3)
    assert flush_telemetry(pool, PATIENCE)
    with pytest.raises(BreakerOpenError):
        pool.submit(int)


def test_what_there_is_no_room_for(
    make_pool: MakePool, storage: GatedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes that find no room are counted; a probe that finds none gives its permit back."""
    monkeypatch.setattr(deferred, "CAPACITY", 2)
    clock = ManualClock(100.0)
    pool = make_pool(1, breaker=circuit(storage, fail_max=1), clock=clock, hung_after=1000.0)
    fail(pool)
    assert flush_telemetry(pool, PATIENCE)
    clock.advance(OPEN_FOR)
    storage.shut()
    monkeypatch.setattr(deferred, "CAPACITY", 0)
    for number in range(1, 4):
        fail(pool)  # let in as the one probe each time
        assert errors(pool) == number
    storage.gate.set()
    assert flush_telemetry(pool, PATIENCE)
    assert pool.stats().breaker == "half_open"
    monkeypatch.setattr(deferred, "CAPACITY", 2)
    assert pool.submit(int).result(PATIENCE) == 0
    assert flush_telemetry(pool, PATIENCE)
    assert pool.stats().breaker == "closed"


# -- the making and the end of a pool ----------------------------------------------------------------------


def test_it_may_come_open(make_pool: MakePool, logs: Logs) -> None:
    """What the storage holds when the pool is made holds for the pool, without a change to announce."""
    pool = make_pool(1, breaker=circuit(GatedStorage(pybreaker.STATE_OPEN)))
    with pytest.raises(BreakerOpenError, match="it was open when the pool was made"):
        pool.submit(int)
    pool.stop(PATIENCE)
    assert logs.named("breaker.changed") == []


def test_made_while_the_storage_is_silent(
    make_pool: MakePool, storage: GatedStorage, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    """A pool is made and used though the storage does not answer, and learns its state when it does."""
    monkeypatch.setattr(deferred, "FIRST_LOOK", 0.05)
    own = circuit(storage)
    storage._state = pybreaker.STATE_OPEN
    storage.shut()
    pool = make_pool(1, breaker=own)
    assert pool.submit(int).result(PATIENCE) == 0
    assert pool.stats().breaker == "closed"
    storage.gate.set()
    until(lambda: pool.stats().breaker == "open")
    assert logs.wait_for("breaker.changed")["new"] == "open"


def test_threads(make_pool: MakePool, storage: GatedStorage) -> None:
    """There is one thread from the first use to the stop, and none for a breaker that is all in memory."""
    for breaker in (BreakerPolicy(), pybreaker.CircuitBreaker()):
        pool = make_pool(1, breaker=breaker)
        pool.submit(int).result(PATIENCE)
        assert type(pool._engine.breaker) is Breaker
    own = circuit(storage)
    pool = make_pool(1, breaker=own, name="fed")
    assert feeding_threads() == []
    pool.submit(int).result(PATIENCE)
    assert feeding_threads() == ["prodpool-breaker-fed"]
    assert own.listeners != ()
    pool.stop(PATIENCE)
    until(lambda: own.listeners == ())
    until(lambda: feeding_threads() == [])


def test_a_stop_feeds_what_waits(make_pool: MakePool, storage: GatedStorage) -> None:
    """A stop waits, within its deadline, until the storage has heard of everything."""
    pool = make_pool(1, breaker=circuit(storage, fail_max=100))
    pool.submit(int).result(PATIENCE)
    storage.shut()
    fail(pool, 20)
    stopping = threading.Thread(target=pool.stop, args=(PATIENCE,))
    stopping.start()
    try:
        assert not poll(lambda: not stopping.is_alive(), 0.7)  # longer than it waits for a log
    finally:
        storage.gate.set()
        stopping.join(PATIENCE + LEEWAY)
    assert storage.counter == 20
    assert errors(pool) == 0


def test_a_task_that_ends_after_the_stop(make_pool: MakePool, storage: GatedStorage) -> None:
    """The outcome of an abandoned task is fed, or counted as lost if the circuit breaker was given back."""
    pool = make_pool(1, breaker=circuit(storage))
    hold = BlockingTask()
    occupy(pool, hold, 1)
    pool.stop(0.01)
    hold.release()
    until(lambda: storage.resets + errors(pool) == 1)
