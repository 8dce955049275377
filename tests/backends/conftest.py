"""The backends that every test of this folder runs over."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import loky
import pytest
from distributed import Client, LocalCluster
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from prodpool.shutdown import phases
from tests.backends import work
from tests.support import Logs

# Seconds after which a test that would hang fails. On a busy machine a worker process takes some to come up.
PATIENCE = 30.0


class Submitter:
    """A backend that has ``submit`` and nothing else in common with an executor."""

    def __init__(self, workers: int) -> None:
        self._executor = ThreadPoolExecutor(workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True) -> None:
        self._executor.shutdown(wait)


class Handed(ProcessPoolExecutor):
    """Worker processes with a ``submit`` of their own, by which all tasks go."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def handed(workers: int) -> Handed:
    return Handed(workers, mp_context=multiprocessing.get_context("forkserver"))


def processes(method: str) -> Callable[[int], Any]:
    context = multiprocessing.get_context(method)
    return lambda workers: ProcessPoolExecutor(workers, mp_context=context)


_clusters: list[tuple[LocalCluster, Client]] = []


def dask(_: int) -> Any:
    """Return an executor of the session's cluster, which always has two workers."""
    if not _clusters:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
        _clusters.append((cluster, Client(cluster)))
    return _clusters[0][1].get_executor()


PROCESSES = ["fork", "forkserver", "spawn"]
BACKENDS: dict[str, Callable[[int], Any]] = {
    **{method: processes(method) for method in PROCESSES},
    "loky": loky.ProcessPoolExecutor,
    "handed": handed,
    "dask": dask,
    "threads": ThreadPoolExecutor,
    "other": Submitter,
}


@pytest.fixture(scope="session", autouse=True)
def _servers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the processes running that are kept for the whole session."""
    if any("dask" in item.name for item in request.session.items):
        dask(2).submit(work.pid).result(PATIENCE)
    for method in [*PROCESSES, "loky"]:
        with BACKENDS[method](1) as backend:
            backend.submit(work.pid).result(PATIENCE)
    yield
    while _clusters:
        cluster, client = _clusters.pop()
        client.close()
        cluster.close()


# What these do differently, they do so on every CPython.
over_processes = [
    "fork",
    "forkserver",
    *(pytest.param(kind, marks=pytest.mark.once) for kind in ("spawn", "loky")),
]


@pytest.fixture(
    params=[
        *over_processes,
        *(pytest.param(kind, marks=pytest.mark.once) for kind in ("handed", "dask")),
        "threads",
        "other",
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Name the backend of this run of the test."""
    return str(request.param)


class MakePool:
    """Builds pools over one kind of backend, which are stopped after the test."""

    def __init__(self, kind: str, registry: CollectorRegistry, logs: Logs) -> None:
        self.kind = kind
        self.logs = logs
        self.pools: list[InstrumentedPool] = []
        self._registry = registry
        self._numbers = itertools.count(1)

    def __call__(
        self,
        workers: int = 2,
        *,
        factory: bool = False,
        factory_of: Callable[[str], Callable[[int], Any]] | None = None,
        **options: Any,
    ) -> InstrumentedPool:
        """Build a pool over a backend, or over the factory of one, so that it can be built anew."""
        build = BACKENDS[self.kind] if factory_of is None else factory_of(self.kind)
        defaults = {
            "name": f"test_{next(self._numbers)}",
            "registry": self._registry,
            "logger": self.logs.logger,
            "max_workers": workers,
        }
        self.pools.append(InstrumentedPool(build if factory else build(workers), **{**defaults, **options}))
        return self.pools[-1]


@pytest.fixture
def make_pool(kind: str, registry: CollectorRegistry, logs: Logs) -> Iterator[MakePool]:
    make = MakePool(kind, registry, logs)
    yield make
    for pool in make.pools:
        pool.stop(1.0)
        pool.close_metrics()


@pytest.fixture
def exact_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stop wait for its own report, however late a busy machine lets that come."""
    monkeypatch.setattr(phases, "REPORT_GRACE", PATIENCE)


@contextmanager
def meanwhile(act: Callable[[], object], every: float) -> Iterator[None]:
    """Have ``act`` called again and again beside what happens inside, ``every`` so many seconds."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Held:
    """Tasks that run until they are let go, in whatever process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._marks: list[Path] = []
        self._go = folder / "go"

    def submit(self, pool: Any) -> Future[int]:
        mark = self._folder / str(next(self._numbers))
        self._marks.append(mark)
        future: Future[int] = pool.submit(work.hold, str(mark), str(self._go))
        return future

    def running(self) -> int:
        return sum(mark.exists() for mark in self._marks)

    def pids(self) -> set[int]:
        return {int(mark.read_text()) for mark in self._marks if mark.exists()}

    def ran(self) -> list[tuple[float, float]]:
        """Return when each began and ended, of those that have, in seconds of this host's clock."""
        books = [path.read_text().split() for path in self._folder.glob("*.ran")]
        return [(float(began), float(ended)) for began, ended in books]

    def most_at_once(self) -> int:
        """Return how many ran at the same time at most, of those that have ended."""
        ran = self.ran()
        steps = sorted([(began, 1) for began, _ in ran] + [(ended, -1) for _, ended in ran])
        return max(itertools.accumulate(step for _, step in steps))

    def wait_running(self, count: int) -> None:
        ends = threading.Event()
        for _ in range(int(PATIENCE / 0.005)):
            if self.running() >= count:
                return
            ends.wait(0.005)
        pytest.fail(f"{self.running()} of {count} held tasks run")

    def let_go(self) -> None:
        self._go.touch()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    tasks = Held(tmp_path)
    yield tasks
    tasks.let_go()
