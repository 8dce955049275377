"""A pool from its making to its end: its name, its numbers, its repr, and what becomes of it unstopped."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

import prodpool
from prodpool import InstrumentedPool, PoolFullError, PoolStats, Reason, Result
from prodpool.concurrency.background_thread import THREAD_NAME, background_thread
from prodpool.testing import ManualClock
from tests.helpers.accounting import counts_add_up
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until_collected
from tests.support import Logs, MakePool

# Names


@pytest.mark.parametrize("name", ["acme-corp", "Orders", "eu/west:2", "mail.send", "a@b", "9", "m" * 100])
def test_names(make_pool: MakePool, registry: CollectorRegistry, name: str) -> None:
    """What services call their parts is a name, and a label's value as it is."""
    make_pool(1, name=name).submit(len, "mail").result(PATIENCE)
    assert registry.get_sample_value("workerpool_submitted_total", {"pool": name}) == 1


def test_one_name_in_two_registries(make_pool: MakePool) -> None:
    """Pools of one name may live side by side in different registries."""
    registries = CollectorRegistry(), CollectorRegistry()
    for registry in registries:
        make_pool(1, name="mail", registry=registry).submit(len, "mail").result(PATIENCE)
    for registry in registries:
        assert registry.get_sample_value("workerpool_submitted_total", {"pool": "mail"}) == 1


def test_the_default_registry() -> None:
    """Without a registry a pool is exported by the default one, until close_metrics()."""
    pool = prodpool.threads(name="in_the_default_registry", max_workers=1)
    pool.stop()
    assert b'pool="in_the_default_registry"' in generate_latest()
    pool.close_metrics()
    assert b'pool="in_the_default_registry"' not in generate_latest()


# Numbers


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_defaults(make_pool: MakePool, workers: int) -> None:
    """A pool takes the backend's size, lets twice as many tasks wait, and is an open Executor."""
    pool = make_pool(workers)
    assert isinstance(pool, Executor)
    stats = pool.stats()
    assert (stats.workers, stats.queue_capacity, stats.state) == (workers, 2 * workers, "open")


def test_fewer_workers_than_threads(make_pool: MakePool, gate: BlockingTask) -> None:
    """max_workers below the backend's size bounds the tasks that run at once."""
    pool = make_pool(4, max_workers=2)
    futures = [pool.submit(gate) for _ in range(4)]
    gate.wait_started(2)
    stats = pool.stats()
    assert (stats.running, stats.queued, stats.queue_capacity) == (2, 2, 4)
    gate.release()
    wait(futures, PATIENCE)


def test_stats_of_a_new_pool(make_pool: MakePool) -> None:
    """The numbers of a pool that was never used are all there, and 0."""
    assert make_pool(2, name="mail").stats() == PoolStats(
        name="mail",
        state="open",
        workers=2,
        queue_capacity=4,
        queued=0,
        running=0,
        submitted=0,
        completed=dict.fromkeys(Result, 0),
        dropped=dict.fromkeys(Reason, 0),
        oldest_queued=0.0,
        longest_running=0.0,
        hung=0,
        breaker=None,
    )


def test_stats_tell_everything_once(make_pool: MakePool) -> None:
    """Each way that a task may go is counted once, under its own word, and the sum is right."""
    clock, gate = ManualClock(), BlockingTask()
    pool = make_pool(1, queue_capacity=3, clock=clock, hung_after=10.0)
    background_thread().remove_periodic(
        pool._engine.watchdog
    )  # which would drop what has expired before we have looked
    pool.submit(len, "ok").result(PATIENCE)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    pool.submit(exit).exception(PATIENCE)
    pool.submit(gate)
    gate.wait_started()
    clock.advance(4.0)
    cancelled, expiring, _ = (
        pool.submit(len, ""),
        pool.options(deadline=1.0).submit(len, ""),
        pool.submit(len, ""),
    )
    with pytest.raises(PoolFullError):
        pool.submit(len, "")
    cancelled.cancel()
    clock.advance(8.0)
    stats = pool.stats()
    assert counts_add_up(stats)
    assert stats == PoolStats(
        name="test",
        state="open",
        workers=1,
        queue_capacity=3,
        queued=2,
        running=1,
        submitted=7,
        completed={**dict.fromkeys(Result, 0), Result.OK: 1, Result.ERROR: 1, Result.PANIC: 1},
        dropped={**dict.fromkeys(Reason, 0), Reason.FULL: 1, Reason.CANCELLED: 1},
        oldest_queued=8.0,
        longest_running=12.0,
        hung=1,
        breaker=None,
    )
    assert (stats.in_flight, stats.offered) == (3, 8)
    gate.release()
    expiring.exception(PATIENCE)
    pool.stop()
    stats = pool.stats()
    assert counts_add_up(stats)
    assert (stats.state, stats.in_flight, stats.dropped[Reason.EXPIRED]) == ("stopped", 0, 1)
    assert (stats.oldest_queued, stats.longest_running, stats.hung) == (0.0, 0.0, 0)


def test_stats_are_a_snapshot(make_pool: MakePool) -> None:
    """What stats() returned cannot be changed, does not change, and changing its parts changes no pool."""
    pool = make_pool(1)
    before = pool.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.submitted = 5  # type: ignore[misc]
    pool.submit(len, "").result(PATIENCE)
    assert (before.submitted, before.completed[Result.OK]) == (0, 0)
    taken: Any = pool.stats().completed
    taken[Result.OK] = 99
    assert pool.stats().completed[Result.OK] == 1


def test_stats_add_up_at_any_moment(make_pool: MakePool) -> None:
    """Read while threads submit, fail and cancel, every single snapshot adds up."""
    pool = make_pool(3, queue_capacity=5)

    def hammer() -> None:
        for number in range(300):
            try:
                future = pool.submit(divmod, 1, number % 3)
            except PoolFullError:
                continue
            if number % 5 == 0:
                future.cancel()

    threads = [threading.Thread(target=hammer) for _ in range(3)]
    for thread in threads:
        thread.start()
    snapshots = 0
    while any(thread.is_alive() for thread in threads) or snapshots < 50:
        stats = pool.stats()
        assert counts_add_up(stats), stats
        assert (stats.queued <= 5, stats.running <= 3) == (True, True)
        snapshots += 1
    pool.stop()
    stats = pool.stats()
    assert counts_add_up(stats)
    assert (stats.offered, stats.in_flight) == (900, 0)


def test_repr(make_pool: MakePool, gate: BlockingTask) -> None:
    """The repr tells name, state and how full the pool is, in each state."""
    pool = make_pool(2, name="mail", queue_capacity=7)
    assert repr(pool) == "<InstrumentedPool 'mail' open: 0/2 running, 0/7 queued>"
    futures = [pool.submit(gate) for _ in range(3)]
    gate.wait_started(2)
    assert repr(pool) == "<InstrumentedPool 'mail' open: 2/2 running, 1/7 queued>"
    pool.shutdown(wait=False)
    assert "'mail' draining" in repr(pool)
    gate.release()
    wait(futures, PATIENCE)
    pool.stop()
    assert repr(pool) == "<InstrumentedPool 'mail' stopped: 0/2 running, 0/7 queued>"
    assert pool.name == "mail"


# A pool that nobody stopped


def watchdog_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


@pytest.mark.parametrize("own_threads", [False, True], ids=["wrapped", "threads()"])
def test_a_dropped_pool_drains_and_goes(registry: CollectorRegistry, logs: Logs, own_threads: bool) -> None:
    """A pool that nobody refers to any more finishes what it holds, says so, and its threads end."""
    threads, gate = set(threading.enumerate()), BlockingTask()
    options: dict[str, Any] = {"name": "dropped", "registry": registry, "logger": logs.logger}
    if own_threads:
        pool = prodpool.threads(max_workers=1, **options)
    else:
        pool = InstrumentedPool(ThreadPoolExecutor(1), **options)
    futures = [pool.submit(gate, number) for number in range(3)]
    gate.wait_started()
    del pool
    until_collected(lambda: "pool.draining" in logs.events)
    gate.release()
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2]
    stopped = logs.wait_for("pool.stopped")
    assert (stopped["drained"], stopped["completed"], stopped["dropped"]) == (True, 3, 0)
    for thread in set(threading.enumerate()) - threads - set(watchdog_threads()):
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_a_dropped_pool_stays_counted(registry: CollectorRegistry, logs: Logs) -> None:
    """The last numbers of a dropped pool are in every scrape that follows."""
    pool = prodpool.threads(name="dropped", max_workers=1, registry=registry, logger=logs.logger)
    pool.submit(len, "").result(PATIENCE)
    del pool
    until_collected(lambda: "pool.stopped" in logs.events)
    for _ in range(2):
        assert b'workerpool_completed_total{pool="dropped",result="ok"} 1.0' in generate_latest(registry)


def test_a_pool_dropped_after_its_stop_stays_counted(registry: CollectorRegistry) -> None:
    """A stopped pool is exported as stopped, whether or not somebody holds it."""
    pool = prodpool.threads(name="held", max_workers=1, registry=registry)
    pool.stop()
    for thread in watchdog_threads():  # it ends with the last pool of the process
        thread.join(1.0)
    for _ in range(3):
        assert b'pool="held"' in generate_latest(registry)
    alive = weakref.ref(pool)
    del pool
    until_collected(lambda: alive() is None)
    for _ in range(2):
        assert b'workerpool_stopped{pool="held"} 1.0' in generate_latest(registry)


def test_the_name_of_a_dropped_pool_is_free_again(registry: CollectorRegistry, logs: Logs) -> None:
    """The name of a dropped pool may be used again, as that of any other."""
    pool = prodpool.threads(name="again", max_workers=1, registry=registry, logger=logs.logger)
    pool.submit(int).result(PATIENCE)
    del pool
    until_collected(lambda: "pool.stopped" in logs.events)
    with prodpool.threads(name="again", max_workers=1, registry=registry) as pool:
        assert pool.submit(len, "again").result(PATIENCE) == 5


def test_a_pool_dropped_unused_leaves_nothing(registry: CollectorRegistry) -> None:
    """A pool that was never used has no thread; once dropped its name is free, and it is exported no more."""
    threads = threading.active_count()
    alive = weakref.ref(prodpool.threads(name="again", max_workers=1, registry=registry))
    assert threading.active_count() == threads
    until_collected(lambda: alive() is None)
    assert b'pool="again"' not in generate_latest(registry)
    with prodpool.threads(name="again", max_workers=1, registry=registry) as pool:
        assert pool.submit(len, "again").result(PATIENCE) == 5
