"""A pybreaker.CircuitBreaker whose state is in a real Redis that is well, slow, silent or gone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pybreaker
import pytest

from prodpool import BreakerOpenError, InstrumentedPool
from prodpool.admission.breaker import deferred
from prodpool.testing import ManualClock, flush_telemetry
from tests.helpers.tasks import BlockingTask, TaskError
from tests.helpers.waiting import LEEWAY, PATIENCE, until
from tests.services.redis_server import RedisServer, SlowProxy, redis_server
from tests.support import ROOT, Logs, MakePool

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

OPEN_FOR = 600.0


def boom() -> None:
    raise TaskError


class Rig:
    """A Redis, a proxy that makes it slow, and circuit breakers of several hosts."""

    def __init__(self, server: RedisServer, proxy: SlowProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.direct = server.client()
        self.clients = [self.direct]

    def host(self, **options: Any) -> pybreaker.CircuitBreaker:
        """Make a circuit breaker as another host has it, with a connection of its own by way of the proxy."""
        client = self.server.client(self.proxy.socket)
        self.clients.append(client)
        storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, client)
        return pybreaker.CircuitBreaker(
            state_storage=storage, **{"fail_max": 3, "reset_timeout": OPEN_FOR, **options}
        )

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def kept(self, key: str) -> str:
        """Return what Redis has under ``key``, past the proxy."""
        value = cast("bytes", self.direct.get(f"pybreaker:{key}"))
        return value.decode()


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[RedisServer, SlowProxy]]:
    with redis_server() as both:
        yield both


@pytest.fixture
def rig(servers: tuple[RedisServer, SlowProxy], make_pool: MakePool) -> Iterator[Rig]:
    """Return the rig with an empty Redis; it answers again before the test's pools are stopped."""
    rig = Rig(*servers)
    rig.direct.flushall()
    yield rig
    rig.proxy.delay = 0.0
    rig.proxy.release()
    rig.close()


def refuses(pool: InstrumentedPool) -> bool:
    try:
        pool.submit_wait(int).result(PATIENCE)
    except BreakerOpenError:
        return True
    return False


def lost(pool: InstrumentedPool) -> int:
    return pool._engine.telemetry_errors.counts()["breaker"]


def reports(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the pool has written of the breaker to the standard library's log."""
    return [line for line in caplog.messages if "sink=breaker" in line]


def test_a_slow_redis_delays_no_result(rig: Rig, make_pool: MakePool) -> None:
    """With a Redis that answers in 0.5 s, ten empty tasks end at once, and the stop has all of them fed."""
    pool = make_pool(4, queue_capacity=20, breaker=rig.host())
    rig.proxy.delay = 0.5
    asked = rig.proxy.requests
    futures = [pool.submit(int) for _ in range(10)]
    assert [future.result(PATIENCE) for future in futures] == [0] * 10
    assert isinstance(pool.submit(boom).exception(PATIENCE), TaskError)
    # One outcome takes two requests or more, and before its result it took them all: 23.
    assert rig.proxy.requests - asked < 10
    report = pool.stop(PATIENCE)
    assert report.drained
    assert rig.kept("fail_counter") == "1"
    assert lost(pool) == 0
    # Nine successes behind the one that was being fed were fed as one.
    assert rig.proxy.requests - asked < 15


def test_a_silent_redis_holds_up_nothing(
    rig: Rig, make_pool: MakePool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis answers nothing, tasks come in and end, the stop keeps its deadline, losses are counted."""
    monkeypatch.setattr(deferred, "CAPACITY", 6)
    own = rig.host(fail_max=1000)
    pool = make_pool(2, queue_capacity=50, breaker=own)
    pool.submit(int).result(PATIENCE)
    assert flush_telemetry(pool)
    rig.proxy.hold()
    asked = rig.proxy.requests
    pool.submit(boom).exception(PATIENCE)
    until(lambda: rig.proxy.requests > asked)  # the thread waits for a reply
    for _ in range(10):
        assert isinstance(pool.submit_wait(boom).exception(PATIENCE), TaskError)
    assert pool.stats().breaker == "closed"
    assert lost(pool) == 4  # six wait
    began = time.monotonic()
    report = pool.stop(0.5)
    assert report.drained
    assert time.monotonic() - began < 0.5 + LEEWAY
    assert lost(pool) == 10
    assert rig.kept("fail_counter") == "0"
    assert [line.split(";")[0] for line in reports(caplog)] == ["pool.telemetry_error pool=test sink=breaker"]
    rig.proxy.release()
    # The one that was on its way gets through, and the pool then detaches from the circuit breaker.
    until(lambda: own.listeners == () and rig.kept("fail_counter") == "1")


def test_another_host_opens_and_closes_it(rig: Rig, make_pool: MakePool, logs: Logs) -> None:
    """What another host writes into Redis is noticed by submits within about a second, without an outcome."""
    pool = make_pool(1, breaker=rig.host())
    other = rig.host()
    assert not refuses(pool)
    assert flush_telemetry(pool)
    other.open()
    until(lambda: refuses(pool))
    assert pool.stats().breaker == "open"
    other.close()
    until(lambda: not refuses(pool))
    logs.wait_for("breaker.changed", count=2)
    changes = [(line["old"], line["new"], line["why"]) for line in logs.named("breaker.changed")]
    assert changes == [
        ("closed", "open", "found changed in its storage"),
        ("open", "closed", "found changed in its storage"),
    ]


def test_failures_of_hosts_add_up(rig: Rig, make_pool: MakePool) -> None:
    """Two pools as on two hosts trip together by failures in a row of both; the third finds it open."""
    pools = [make_pool(1, breaker=rig.host(fail_max=4)) for _ in range(2)]
    for _ in range(2):
        for pool in pools:
            assert isinstance(pool.submit_wait(boom).exception(PATIENCE), TaskError)
            assert flush_telemetry(pool)
    assert rig.kept("state") == "open"
    until(lambda: all(refuses(pool) for pool in pools))
    third = make_pool(1, breaker=rig.host())
    assert third.stats().breaker == "open"
    with pytest.raises(BreakerOpenError, match="it was open when the pool was made"):
        third.submit(int)


def test_probes_while_redis_is_silent(rig: Rig, make_pool: MakePool, logs: Logs) -> None:
    """Half-open lets one probe in though Redis is silent, and no second one before that is judged."""
    clock = ManualClock(100.0)
    pool = make_pool(8, queue_capacity=50, breaker=rig.host(fail_max=1), clock=clock, hung_after=10_000.0)
    assert isinstance(pool.submit(boom).exception(PATIENCE), TaskError)
    assert flush_telemetry(pool)
    assert pool.stats().breaker == "open"
    rig.proxy.hold()
    clock.advance(OPEN_FOR)
    assert pool.stats().breaker == "half_open"
    hold = BlockingTask()
    admitted: list[Any] = []
    meeting = threading.Barrier(8)

    def ask() -> None:
        meeting.wait(PATIENCE)
        try:
            admitted.append(pool.submit(hold))
        except BreakerOpenError:
            return

    crew = [threading.Thread(target=ask) for _ in range(8)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(PATIENCE)
    assert len(admitted) == 1
    hold.release()
    assert admitted[0].result(PATIENCE) is None
    assert refuses(pool)  # its outcome is not judged yet
    rig.proxy.release()
    until(lambda: not refuses(pool))
    assert rig.kept("state") == "closed"
    logs.wait_for("breaker.changed", count=3)
    assert [line["new"] for line in logs.named("breaker.changed")] == ["open", "half_open", "closed"]


def test_open_and_silent_for_long(
    rig: Rig, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where Redis has not answered for a while, an open breaker lets all tasks in, and says so once."""
    pool = make_pool(1, breaker=rig.host(fail_max=1))
    assert isinstance(pool.submit(boom).exception(PATIENCE), TaskError)
    assert flush_telemetry(pool)
    rig.proxy.hold()
    assert refuses(pool)
    monkeypatch.setattr(deferred, "UNRESPONSIVE_AFTER", 0.1)
    until(lambda: not refuses(pool))  # a submit asks once a second
    assert not refuses(pool)
    until(lambda: len(reports(caplog)) == 1)
    assert "storage has not answered" in caplog.text
    assert lost(pool) == 1
    rig.proxy.release()
    until(lambda: refuses(pool))  # it is open, as Redis says


def test_redis_that_is_gone(make_pool: MakePool, caplog: pytest.LogCaptureFixture) -> None:
    """Without Redis tasks go on, as pybreaker's fallback has it; once it is back, outcomes count again."""
    with redis_server() as (server, proxy), closing(Rig(server, proxy)) as rig:
        pool = make_pool(1, queue_capacity=50, breaker=rig.host(fail_max=1000))
        server.stop()
        for _ in range(10):
            assert isinstance(pool.submit_wait(boom).exception(PATIENCE), TaskError)
        assert flush_telemetry(pool, PATIENCE)
        assert pool.stats().breaker == "closed"
        # pybreaker's storage catches and logs each error: there is nothing for the pool to count.
        assert {record.name for record in caplog.records} == {"pybreaker"}
        server.start()
        assert isinstance(pool.submit_wait(boom).exception(PATIENCE), TaskError)
        assert flush_telemetry(pool, PATIENCE)
        assert rig.kept("fail_counter") == "1"
        pool.stop(PATIENCE)


def test_a_forked_child(rig: Rig) -> None:
    """A child's pool feeds the same Redis from a thread of its own; the parent's notices that it is open."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.services.breaker_forking", rig.server.socket],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE + LEEWAY,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "child open\nparent open\n"), done.stderr
    assert rig.kept("state") == "open"
