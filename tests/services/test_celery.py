"""Pools that an application builds at import, in the children that a real Celery worker forks after that."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery.signals import worker_process_shutdown, worker_shutdown
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from prodpool import InstrumentedPool
from prodpool.integrations.celery import stop_pools_with_worker
from tests.helpers.waiting import PATIENCE, until
from tests.services.celery_broker import INBOX, OUTBOX, configured
from tests.services.service import POOLS, Service, answers, service

pytestmark = [
    pytest.mark.once,
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]
CHILDREN = 2


class Worker:
    """A Celery worker that works for `celery_app`."""

    def __init__(self, served: Service, folder: Path, processes: int) -> None:
        self.log = served.lines
        self._folder = folder
        self._processes = processes
        self._app = configured(folder / "client")
        self._rounds = 0

    def call(self, task: str, *args: object, times: int = 1) -> list[object]:
        """Have a task run by Celery so many times at once; return the answers that it leaves."""
        self._rounds += 1
        place = self._folder / f"answers-{self._rounds}"
        for _ in range(times):
            self._app.send_task(task, (str(place), *args))
        for message in Path(self._folder, "client", OUTBOX).iterdir():
            message.rename(Path(self._folder, "worker", INBOX, message.name))
        found, processes = answers(place, times)
        assert len(processes) == min(times, self._processes)
        return found

    def answers(self, pool: str) -> list[object]:
        """Return what a pool answers to each of the children."""
        return self.call("ask", pool, CHILDREN, times=CHILDREN)


@contextmanager
def working(
    folder: Path, pool: str = "prefork", *options: str, end: signal.Signals = signal.SIGKILL, **env: str
) -> Iterator[Worker]:
    """Have a Celery worker until the block ends."""
    command = ["-m", "celery", "-A", "tests.services.celery_app", "worker", f"--pool={pool}", *options]
    command += [f"--concurrency={CHILDREN}", "-O", "fair", "--loglevel=INFO"]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    env |= {"BROKER": str(folder / "worker")}
    with service(command, folder / "celery.log", env, end=end) as served:
        served.until_logged(" ready.")
        yield Worker(served, folder, CHILDREN if pool == "prefork" else 1)


def says_what_to_use_instead(worker: Worker, pool: str) -> bool:
    """Tell whether a pool of worker processes says to each child, again and again, what is wrong there."""
    return all(
        str(answer).startswith("DaemonicProcessError: ForkPoolWorker-")
        and "use a pool of threads" in str(answer)
        and "celery worker --pool=threads" in str(answer)
        for answer in worker.answers(pool) + worker.answers(pool)
    )


def done(folder: Path, round_: int) -> str | None:
    """Return what the task that was left in a pool in that round wrote, once it has."""
    path = folder / f"answers-{round_}" / "done"
    return path.read_text() if path.exists() else None


def test_pools_built_before_the_fork(tmp_path: Path) -> None:
    """Pools over threads work in each child, and are drained when it ends. Processes it cannot have."""
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    env = {"STOP_POOLS": "yes", "PROMETHEUS_MULTIPROC_DIR": str(metrics)}
    with working(tmp_path, end=signal.SIGTERM, **env) as worker:
        for pool in ("executor", "factory", "threads"):
            assert worker.answers(pool) == [5, 5]
        for pool in ("template", "processes"):
            assert says_what_to_use_instead(worker, pool)
        assert worker.log("ERROR") == []
        assert worker.call("leave") == ["left"]
        until(lambda: len(list(metrics.glob("gauge_live*.db"))) >= CHILDREN)
    assert done(tmp_path, 8) == "main thread: True", worker.log("")
    assert list(metrics.glob("gauge_live*.db")) == []
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(metrics))  # type: ignore[no-untyped-call]
    labels = {"pool": "threads", "result": "ok"}
    assert registry.get_sample_value("workerpool_completed_total", labels) == CHILDREN + 1


def test_a_child_that_is_recycled(tmp_path: Path) -> None:
    """Its pools are drained as well, while the worker goes on."""
    with working(tmp_path, "prefork", "--max-tasks-per-child=1", STOP_POOLS="yes") as worker:
        assert worker.call("leave") == ["left"]
        until(lambda: done(tmp_path, 1))
        assert worker.answers("threads") == [5, 5]


def test_pools_used_before_the_fork(tmp_path: Path) -> None:
    """They start anew in each child where they can, and else say why not."""
    with working(tmp_path, USED_POOLS=" ".join(POOLS)) as worker:
        for pool in ("factory", "threads"):
            assert worker.answers(pool) == [5, 5]
        for answer in worker.answers("executor") + worker.answers("executor"):
            assert str(answer).startswith("PoolForkedError: pool 'executor' was used before")
        for pool in ("template", "processes"):
            assert says_what_to_use_instead(worker, pool)
        until(lambda: len(worker.log("ERROR")) >= CHILDREN)  # written by threads of their own
        lines = worker.log("ERROR")
        assert len(lines) == CHILDREN
        assert all(line.startswith("ERROR:prodpool:pool.forked pool=executor") for line in lines)


def test_celerys_own_pool_of_threads(tmp_path: Path) -> None:
    """Nothing is forked, pools of every kind work, and they are drained before the interpreter exits."""
    with working(tmp_path, "threads", end=signal.SIGTERM, STOP_POOLS="yes") as worker:
        for pool in POOLS:
            assert worker.answers(pool) == [5, 5]
        assert worker.call("leave") == ["left"]
    assert done(tmp_path, len(POOLS) + 1) == "main thread: True", worker.log("")


def test_a_worker_in_a_thread_of_a_test(make_pool: Callable[..., InstrumentedPool]) -> None:
    """Its end is not that of the process, as it is when a worker of Celery's in the main thread ends."""
    pool = make_pool(1)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    signals = (worker_shutdown, worker_process_shutdown)
    before = [list(each.receivers) for each in signals]
    stop_pools_with_worker()
    try:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(worker_shutdown.send, sender=None).result(PATIENCE)
        assert pool.stats().state == "open"
        worker_shutdown.send(sender=None)
        assert pool.stats().state == "stopped"
    finally:
        for each, receivers in zip(signals, before, strict=True):
            each.receivers[:] = receivers
