"""What each works alone works together: sizes that change, limits, crashes, backends that are shared."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import PoolBrokenError, PoolFullError, Result, UnpicklableError, WorkerLostError
from prodpool.workers.processes.connection import WorkerConnection
from prodpool.workers.processes.process_template import ProcessTemplate
from tests.backends import work
from tests.backends.conftest import BACKENDS, PATIENCE, MakePool, over_processes
from tests.helpers.accounting import check, scrape
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
each = pytest.mark.parametrize("kind", over_processes, indirect=True)


def ended(pid: int) -> bool:
    """Tell whether a process has ended, whoever started it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def pid_in(mark: Path) -> int:
    until(lambda: mark.exists() and mark.read_text())
    return int(mark.read_text())


@pytest.mark.parametrize("kind", [*over_processes, "handed"], indirect=True)
def test_stop_kills_what_hangs_after_resizes(make_pool: MakePool, tmp_path: Path) -> None:
    """All processes end with the pool, those of backends that were replaced by larger ones too."""
    pool = make_pool(1, factory=True, queue_capacity=5)
    pids = set()
    for workers in (1, 2, 3):
        if workers > 1:
            pool.resize(workers)
        mark = tmp_path / f"hangs {workers}"
        pool.submit(work.hang, str(mark))
        pids.add(pid_in(mark))
    pool.stop(0.1)
    until(lambda: all(map(ended, pids)))


@pytest.mark.parametrize("kind", ["handed"], indirect=True)
def test_a_crash_harms_nothing_in_a_smaller_backend(make_pool: MakePool, tmp_path: Path) -> None:
    """When the larger backend breaks, what still runs in the one before it goes on."""
    pool = make_pool(1, factory=True, queue_capacity=5)
    mark, go = tmp_path / "runs", tmp_path / "go"
    healthy = pool.submit(work.hold, str(mark), str(go))
    ran_in = pid_in(mark)
    pool.resize(2)
    with pytest.raises(WorkerLostError):
        pool.submit(work.die).result(PATIENCE)
    until(lambda: pool._engine.workers.rebuilds() == 1)
    go.touch()
    assert healthy.result(PATIENCE) == ran_in


@each
def test_a_pool_that_was_resized_often(make_pool: MakePool, tmp_path: Path) -> None:
    """A task is lost with its own worker, however many came and went beside it; the other goes on."""
    pool = make_pool(2, queue_capacity=5)
    mark = tmp_path / "hangs"
    hung = pool.submit(work.hang, str(mark))
    ran_in = pid_in(mark)
    for _ in range(3):
        pool.resize(1)
        pool.resize(2)
        assert pool.submit(abs, -1).result(PATIENCE) == 1
    other, go = tmp_path / "runs", tmp_path / "go"
    beside = pool.submit(work.hold, str(other), str(go))
    beside_in = pid_in(other)
    os.kill(ran_in, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match="may have run in part"):
        hung.result(PATIENCE)
    go.touch()
    assert beside.result(PATIENCE) == beside_in


@each
def test_more_workers_for_what_waits(make_pool: MakePool, tmp_path: Path) -> None:
    """What waits because a task with a limit runs begins as soon as there are more workers."""
    pool = make_pool(1, queue_capacity=20)
    mark, go = tmp_path / "runs", tmp_path / "go"
    limited = pool.options(timeout=60.0).submit(work.hold, str(mark), str(go), 60.0)
    pid_in(mark)
    others = [pool.submit(abs, -number) for number in range(3)]
    pool.resize(3)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert not limited.done()
    go.touch()
    limited.result(PATIENCE)


@each
def test_stop_leaves_a_shared_backend_alone(make_pool: MakePool, tmp_path: Path) -> None:
    """What runs there goes on, nothing begins later, and others can use it."""
    pool = make_pool(1, own_backend=False, queue_capacity=5, prefetch=0)
    backend: Any = pool._engine.backend
    mark, go, never = tmp_path / "runs", tmp_path / "go", tmp_path / "never"
    try:
        pool.submit(work.hold, str(mark), str(go))
        ran_in = pid_in(mark)
        pool.submit(work.sign, str(never))
        pool.stop(0.1)
        go.touch()
        assert backend.submit(work.pid).result(PATIENCE) == ran_in
        until(lambda: pool.stats().in_flight == 0)
        check(pool.stats())
        assert not never.exists()
    finally:
        go.touch()
        backend.shutdown()


@each
def test_a_worker_that_died_idle(make_pool: MakePool) -> None:
    """A task with a limit is not lost because an idle process is gone."""
    view = make_pool(1).options(timeout=60.0)
    idle = view.submit(work.pid).result(PATIENCE)
    os.kill(idle, signal.SIGKILL)
    until(lambda: ended(idle))
    assert view.submit(abs, -1).result(PATIENCE) == 1


@each
def test_what_never_began_took_no_time(
    make_pool: MakePool, registry: CollectorRegistry, tmp_path: Path
) -> None:
    """Tasks with a limit that a stop caught before they began do not count as having run for days."""
    pool = make_pool(2, queue_capacity=5)
    for _ in range(5):
        pool.options(timeout=60.0).submit(work.hang, str(tmp_path / "mark"))
    pool.stop(0.0)
    until(lambda: pool.stats().in_flight == 0)
    samples = scrape(registry)
    assert samples[f'workerpool_busy_seconds_total{{pool="{pool.name}"}}'] < 60.0


class _TakesItsTime:
    """A value whose pickling is over when somebody says so."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        self.goes_on.wait()
        return int, ()


@each
def test_stop_does_not_wait_for_pickling(make_pool: MakePool) -> None:
    """A stop that hands over what had to wait returns, however long the application's own code takes."""
    pool = make_pool(1, queue_capacity=5)
    pool.submit(int).result(PATIENCE)  # the worker is up
    pool.pause()
    value: Any = _TakesItsTime()
    held_up = pool.submit(abs, value)
    try:
        report = pool.stop(0.1)
        assert not value.goes_on.is_set()
        assert (report.drained, report.abandoned) == (False, ("abs",))
        assert isinstance(held_up.exception(PATIENCE), WorkerLostError)
    finally:
        value.goes_on.set()
    until(lambda: pool.stats().in_flight == 0)


@each
def test_a_callback_does_not_wait_for_itself(make_pool: MakePool, tmp_path: Path) -> None:
    """Where it would wait for a place that it is to free, or for the pool's end, it is refused."""
    pool = make_pool(1, queue_capacity=2, overload="block", prefetch=0)
    mark, go = tmp_path / "runs", tmp_path / "go"
    refused: queue.SimpleQueue[BaseException] = queue.SimpleQueue()

    def call_back(_: object) -> None:
        calls: list[Callable[[], object]] = [pool.stop, *[lambda: pool.submit(abs, -1)] * 4]
        for what in calls:
            try:
                what()
            except (RuntimeError, PoolFullError) as error:
                refused.put(error)

    first = pool.submit(work.hold, str(mark), str(go))
    pid_in(mark)
    first.add_done_callback(call_back)
    others = [pool.submit(abs, -number) for number in range(2)]
    go.touch()
    assert "done-callback" in str(refused.get(timeout=PATIENCE))
    assert isinstance(refused.get(timeout=PATIENCE), PoolFullError)
    assert [future.result(PATIENCE) for future in others] == [0, 1]


@pytest.mark.parametrize("kind", ["fork", "loky"], indirect=True)
@pytest.mark.parametrize("what", ["sockets", "processes"])
def test_a_system_short_of_something(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """A worker that cannot be started for want of it is tried again, and its task waits for it."""
    pool = make_pool(1, queue_capacity=5)
    tried = threading.Semaphore(0)

    def none_left(*_: Any, **__: Any) -> Any:
        tried.release()
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        if what == "sockets":
            patch.setattr(WorkerConnection, "_pair", none_left)
        else:
            patch.setattr(ProcessTemplate, "start", none_left)
        future = pool.submit(abs, -1)
        for _ in range(2):
            assert tried.acquire(timeout=PATIENCE)
    assert future.result(PATIENCE) == 1
    stats = check(pool.stats())
    assert (stats.state, stats.completed[Result.OK]) == ("open", 1)
    assert pool._engine.workers.rebuilds() == 0


@pytest.mark.parametrize("kind", ["handed"], indirect=True)
def test_a_backend_short_of_processes(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot take a task for want of a descriptor costs that task, and is not given up."""
    pool = make_pool(1, queue_capacity=5)
    backend: Any = pool._engine.backend
    with monkeypatch.context() as patch:
        patch.setattr(backend, "submit", _no_descriptor)
        with pytest.raises(WorkerLostError, match="may have run in part"):
            pool.submit(abs, -1).result(PATIENCE)
    assert pool.submit(abs, -2).result(PATIENCE) == 2
    check(pool.stats())


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", ["handed"], indirect=True)
def test_a_backend_that_stumbles(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """One that breaks fails at its own closed pipes first: a task that may be repeated survives that."""
    pool = make_pool(1, queue_capacity=5)
    backend: Any = pool._engine.backend
    submit, faults = backend.submit, [OSError("handle is closed")] * times

    def stumble(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return submit(*args)

    monkeypatch.setattr(backend, "submit", stumble)
    assert pool.options(idempotent=True).submit(abs, -1).result(PATIENCE) == 1
    assert not faults
    check(pool.stats())


def _no_descriptor(*_: Any) -> Any:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("wrong", [{"buckets": (2, 1)}, {"queue_capacity": -1}])
@pytest.mark.parametrize("kind", ["fork", "loky"], indirect=True)
def test_a_pool_that_is_refused(
    make_pool: MakePool, wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves no file behind, and shuts down the backend that its factory has built by then."""
    built: list[Any] = []

    def factory_of(kind: str) -> Any:
        return lambda workers: built.append(BACKENDS[kind](workers)) or built[-1]  # type: ignore[func-returns-value]

    # A folder for temporary files that nobody else has: other suites may run on this machine.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"buckets|queue_capacity"):
        make_pool(1, factory=True, factory_of=factory_of, **wrong)
    assert not list(tmp_path.glob("prodpool-*"))
    with pytest.raises(RuntimeError, match="after shutdown"):
        built[0].submit(abs, -1)


@pytest.mark.parametrize("kind", ["fork"], indirect=True)
def test_many_pools_over_one_backend(make_pool: MakePool) -> None:
    """Neither this process nor a worker keeps files of pools open that are stopped."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(make_pool.kind)) as backend:

        def use() -> int:
            pool = make_pool(1, factory_of=lambda _: lambda _: backend, own_backend=False)
            worker = pool.submit(work.pid).result(PATIENCE)
            pool.stop(PATIENCE)
            until(lambda: not any("courier" in thread.name for thread in threading.enumerate()))
            return worker

        use()
        worker, pools = use(), 10
        here, there = _open_files(os.getpid()), _open_files(worker)
        for _ in range(pools):
            use()
        # What other threads of this process open meanwhile is no more than a few files.
        assert _open_files(worker) < there + pools
        until(lambda: _open_files(os.getpid()) < here + pools)


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class _Forgetful:
    """A backend whose ``submit`` returns nothing."""

    def submit(self, *_: Any) -> None:
        """Run nothing."""


@pytest.mark.parametrize("kind", ["other"], indirect=True)
def test_a_backend_that_returns_no_future(make_pool: MakePool) -> None:
    """The task fails with an error that names the backend, and so does the next."""
    pool = make_pool(1, queue_capacity=5, factory_of=lambda _: lambda _: _Forgetful())
    for _ in range(2):
        with pytest.raises(TypeError, match=r"_Forgetful .* returned None from submit"):
            pool.submit(abs, -1).result(PATIENCE)
    assert check(pool.stats()).in_flight == 0


class _Carrier:
    """A backend that pickles in its ``submit``, as those of ipyparallel do, and runs what it carried."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self.closed: Exception | None = None

    def submit(self, fn: Any, /, *args: Any) -> Any:
        """Raise what pickling raises."""
        if self.closed is not None:
            raise self.closed
        carried, arguments = pickle.loads(pickle.dumps((fn, args)))  # noqa: S301  # its own
        return self._executor.submit(carried, *arguments)

    def shutdown(self, wait: bool = True) -> None:
        """End it."""
        self._executor.shutdown(wait)


@pytest.mark.parametrize("kind", ["other"], indirect=True)
@pytest.mark.parametrize(
    ("call", "culprit"),
    [
        ((abs, threading.Lock()), r"argument 1 \(a lock\)"),
        ((lambda: None,), r"the function \(a function\)"),
        ((abs, work.DoesNotPickle()), r"argument 1 \(a DoesNotPickle\)"),
    ],
)
def test_a_backend_that_pickles_by_itself(make_pool: MakePool, call: Any, culprit: str) -> None:
    """A call that it cannot carry fails with an error that names what is wrong, and is not its end."""
    pool = make_pool(1, queue_capacity=5, factory_of=lambda _: lambda _: _Carrier())
    with pytest.raises(UnpicklableError, match=rf"{culprit} does not pickle"):
        pool.submit(*call).result(PATIENCE)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    stats = check(pool.stats())
    assert (stats.completed[Result.ERROR], stats.completed[Result.OK]) == (1, 1)
    assert pool._engine.workers.rebuilds() == 0


@pytest.mark.parametrize("kind", ["other"], indirect=True)
def test_a_backend_that_takes_nothing_is_broken(make_pool: MakePool) -> None:
    """What its submit raises of a call with which nothing is wrong is the backend's own failure."""
    backend = _Carrier()
    backend.closed = TypeError("submit() takes no calls any more")
    pool = make_pool(1, queue_capacity=5, factory_of=lambda _: lambda _: backend)
    with pytest.raises(WorkerLostError, match="takes no calls any more"):
        pool.submit(abs, -1).result(PATIENCE)
    with pytest.raises(PoolBrokenError):
        until(lambda: pool.submit(abs, -1).done(), PATIENCE)
    backend.shutdown()
