"""What dask does differently: it loses one worker and goes on, and would run lost tasks again by itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client, KilledWorker, LocalCluster, Status
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolBrokenError, Result, WorkerLostError
from tests.backends import work
from tests.backends.conftest import PATIENCE, meanwhile
from tests.helpers.accounting import check
from tests.helpers.waiting import until
from tests.support import Logs

pytestmark = [pytest.mark.timeout(120), pytest.mark.once]


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """Start a cluster of this test's own, since its workers are killed.

    Fifteen seconds after a worker was lost, ``LocalCluster`` closes that worker's nanny for good if it
    happens to be starting another just then; in a storm it soon does, and no worker is left.
    """
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
    ):
        yield cluster


@pytest.fixture
def pool(cluster: LocalCluster, registry: CollectorRegistry, logs: Logs) -> Iterator[InstrumentedPool]:
    pool = prodpool.dask(
        cluster.scheduler_address,
        name="test",
        queue_capacity=50,
        overload="block",
        registry=registry,
        logger=logs.logger,
    )
    yield pool
    pool.stop(5.0)
    pool.close_metrics()


def kill_a_worker(cluster: Any) -> bool:
    """Kill the process of one worker, whose nanny then starts another; tell whether there was one to kill.

    Not while another starts: a nanny whose worker dies before it is known to the scheduler, or before the
    nanny has heard of that, gives up for good.
    """
    if len(cluster.scheduler.workers) < len(cluster.workers):
        return False
    if any(nanny.process.status is not Status.running for nanny in cluster.workers.values()):
        return False
    for nanny in cluster.workers.values():
        process = nanny.process.process
        if process is not None and process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            return True
    return False


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_storm(cluster: LocalCluster, pool: InstrumentedPool) -> None:
    """Workers are killed all the while: every task that may be repeated completes, each counted once."""
    killed = 0

    def storm() -> None:
        nonlocal killed
        killed += kill_a_worker(cluster)

    view = pool.options(idempotent=True)
    futures: list[Future[int]] = []
    ends_at = time.monotonic() + 90.0
    with meanwhile(storm, 0.2):
        # For as long as it takes: on a busy machine a worker is seconds in coming back.
        while len(futures) < 2_000 or (killed < 3 and time.monotonic() < ends_at):
            futures.append(view.submit(work.slowly, len(futures)))
    assert not wait(futures, 60.0).not_done
    assert killed >= 3
    count = len(futures)
    assert [future.result(0) for future in futures] == list(range(count))
    stats = check(pool.stats())
    assert (stats.completed[Result.OK], stats.in_flight, stats.state) == (count, 0, "open")


def test_each_runs_at_most_once(cluster: LocalCluster, pool: InstrumentedPool, tmp_path: Path) -> None:
    """A task that may not be repeated is lost with its worker, and not run again behind the pool's back."""
    book = tmp_path / "book"
    mark = tmp_path / "hangs"
    hung = pool.submit(work.hang, str(mark))
    until(lambda: mark.exists() and mark.read_text(), PATIENCE)
    os.kill(int(mark.read_text()), signal.SIGKILL)
    mark.unlink()
    with pytest.raises(WorkerLostError, match="KilledWorker"):
        hung.result(PATIENCE)
    with pytest.raises(WorkerLostError):
        pool.submit(work.poison, str(book)).result(PATIENCE)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    assert len(book.read_text().splitlines()) == 1
    assert not mark.exists()
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK], stats.in_flight) == (2, 1, 0)


def test_a_poison_task(cluster: LocalCluster, pool: InstrumentedPool, tmp_path: Path) -> None:
    """One that kills every worker it meets is run three times and takes no other with it."""
    book = tmp_path / "book"
    view = pool.options(idempotent=True)
    poison = view.submit(work.poison, str(book))
    others = [view.submit(abs, -number) for number in range(30)]
    with pytest.raises(WorkerLostError):
        poison.result(60.0)
    assert [future.result(60.0) for future in others] == list(range(30))
    assert len(book.read_text().splitlines()) == 3
    check(pool.stats())


def test_lost_on_its_way_home(
    cluster: LocalCluster, pool: InstrumentedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task whose result is lost with a worker while it is being fetched fails, rather than hang.

    It takes two deaths in the right milliseconds, so what the client says then is put in its mouth.
    """
    told: list[Any] = []
    nobody: Any = None

    async def lost(_client: Any, futures: Any, **_: Any) -> Any:
        told.append(futures)
        raise KilledWorker("key", nobody, 0)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "_gather", lost)
        with pytest.raises(WorkerLostError, match="KilledWorker"):
            pool.submit(abs, -1).result(PATIENCE)
    assert told
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    stats = check(pool.stats())
    assert (stats.completed[Result.PANIC], stats.completed[Result.OK], stats.in_flight) == (1, 1, 0)


def test_a_cluster_that_is_gone(
    cluster: LocalCluster, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the scheduler goes, the pool closes with a clear error instead of failing each task for ever."""
    with Client(cluster.scheduler_address) as client:
        # So long it hopes that its scheduler will come back; the first time it may take longer to find it.
        monkeypatch.setattr(client, "_timeout", 2)
        pool = InstrumentedPool(client.get_executor(), name="gone", registry=registry, queue_capacity=500)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        cluster.close()

        def refused() -> bool:
            try:
                wait([pool.submit(abs, -1)], 0.2)
            except PoolBrokenError as error:
                said.append(str(error))
                return True
            return False

        said: list[str] = []
        until(refused, PATIENCE)
        assert "its dask client is" in said[0]
        assert "the scheduler has gone" in said[0]
        until(lambda: pool.stats().state == "stopped", PATIENCE)
        assert check(pool.stats()).in_flight == 0


def test_a_client_is_no_executor(cluster: LocalCluster, registry: CollectorRegistry) -> None:
    """A client is refused with the way out; its futures are of another kind."""
    with Client(cluster) as client, pytest.raises(TypeError, match=r"dask client: pass its get_executor\(\)"):
        InstrumentedPool(client, name="client", registry=registry)


def test_nobody_there() -> None:
    """An address at which nothing answers is an error at once, not at the first task."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(OSError, match="after 1 s"),
    ):
        prodpool.dask("tcp://127.0.0.1:1", name="nobody")


def test_a_restart_of_the_workers(cluster: LocalCluster, registry: CollectorRegistry, tmp_path: Path) -> None:
    """``Client.restart`` costs the tasks that were out, and the pool goes on as the bare executor does."""
    with (
        Client(cluster) as client,
        InstrumentedPool(client.get_executor(), name="test", registry=registry, queue_capacity=10) as pool,
    ):
        mark = tmp_path / "runs"
        out = pool.submit(work.hang, str(mark))
        until(mark.exists, PATIENCE)
        client.restart()
        with pytest.raises(WorkerLostError, match="its workers are restarted"):
            out.result(PATIENCE)
        assert [pool.submit(abs, -number).result(PATIENCE) for number in range(3)] == [0, 1, 2]
        stats = check(pool.stats())
        assert (stats.state, stats.completed[Result.PANIC], stats.completed[Result.OK]) == ("open", 1, 3)


def test_a_dead_worker_is_counted(
    cluster: Any, pool: InstrumentedPool, registry: CollectorRegistry, logs: Logs
) -> None:
    """A worker of the cluster that dies is one that was lost; the pool itself has started none."""
    with pytest.raises(WorkerLostError):
        pool.submit(work.exit_with, 3).result(PATIENCE)
    until(lambda: len(cluster.scheduler.workers) == 2, PATIENCE)  # else its nanny complains at the end
    labels = {"pool": "test"}
    assert registry.get_sample_value("workerpool_workers_lost_total", {**labels, "cause": "backend"}) == 1
    assert registry.get_sample_value("workerpool_workers_started_total", labels) == 0
    line = logs.wait_for("pool.worker_lost")
    assert line["cause"] == "backend"
    assert line["task"].endswith("exit_with")
    assert "KilledWorker" in line["error"]
