"""Worker processes that are lent to the pool: they take its calls past the backend's own queue."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loky
import pytest

from prodpool import Result
from prodpool.workers import beacon
from prodpool.workers.ends import POSSIBLE
from tests.api.gates import until
from tests.backends import work
from tests.backends.conftest import BACKENDS, PATIENCE, Held, MakePool, over_processes
from tests.core.rig import check

lends = pytest.mark.parametrize("kind", over_processes, indirect=True)
only_fork = pytest.mark.parametrize("kind", ["fork"], indirect=True)
only_where_lent = pytest.mark.skipif(not POSSIBLE, reason="no worker is lent on this system")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of pools go to a folder that no other suite of this machine uses, with a short path."""
    with tempfile.TemporaryDirectory(prefix="prodpool-") as name, monkeypatch.context() as patch:
        # Not that of the whole process: multiprocessing would keep its own files there for good.
        patch.setattr(beacon, "tempfile", SimpleNamespace(mkstemp=partial(tempfile.mkstemp, dir=name)))
        yield Path(name)


def _addresses(folder: Path) -> list[Path]:
    return list(folder.glob("prodpool-*.calls"))


@lends
@only_where_lent
def test_workers_are_lent(folder: Path, make_pool: MakePool) -> None:
    """The backend sees far fewer calls than there are tasks, and no file stays behind."""
    seen: list[Any] = []
    backend = BACKENDS[make_pool.kind](2)
    submit = backend.submit

    def count(fn: Any, *args: Any) -> Any:
        seen.append(fn)
        return submit(fn, *args)

    backend.submit = count
    pool = make_pool(2, factory_of=lambda _: lambda _: backend, own_backend=True, queue_capacity=500)
    assert [future.result(PATIENCE) for future in [pool.submit(abs, -n) for n in range(500)]] == [*range(500)]
    assert len(seen) < 250
    assert len(_addresses(folder)) == 1
    pool.stop(PATIENCE)
    until(lambda: not _addresses(folder))


@pytest.mark.parametrize("kind", ["loky"], indirect=True)
def test_idle_workers_may_end(make_pool: MakePool, held: Held, tmp_path: Path) -> None:
    """Executors of loky let idle workers go after a while; none is started because of that."""
    backend: Any = loky.ProcessPoolExecutor(2, timeout=0.2)
    seen: list[Any] = []
    submit = backend.submit

    def count(fn: Any, *args: Any) -> Any:
        seen.append(fn)
        return submit(fn, *args)

    backend.submit = count
    pool = make_pool(2, factory_of=lambda _: lambda _: backend, queue_capacity=100)
    (tmp_path / "first").mkdir()
    first = Held(tmp_path / "first")
    both = first.submit(pool), first.submit(pool)
    first.wait_running(2)
    first.let_go()
    assert not wait(both, PATIENCE).not_done
    one = held.submit(pool)
    held.wait_running(1)
    calls = len(seen)
    until(lambda: len(backend._processes) == 1, PATIENCE)
    assert len(seen) == calls
    held.let_go()
    assert one.exception(PATIENCE) is None
    calls = len(seen)
    until(lambda: not backend._processes, PATIENCE)
    assert len(seen) == calls
    assert pool.submit(abs, -1).result(PATIENCE) == 1


@lends
def test_calls_of_every_size(make_pool: MakePool) -> None:
    """Small calls and large ones, with small results and large ones, go side by side."""
    pool = make_pool(2, queue_capacity=100)
    sizes = [(1 << power) + more for power in (0, 8, 15, 16, 20, 22) for more in (-1, 0, 200)] * 2
    futures = [pool.submit(bytes.upper, b"x" * size) for size in sizes]
    assert [future.result(PATIENCE) for future in futures] == [b"X" * size for size in sizes]
    check(pool.stats())


@only_fork
def test_more_ahead_than_a_socket_holds(make_pool: MakePool, held: Held) -> None:
    """What there is no room for waits for its turn, and stays in order."""
    pool = make_pool(1, queue_capacity=1000, prefetch=1000)
    first = held.submit(pool)
    held.wait_running(1)
    futures: list[Future[Any]] = [pool.submit(bytes.upper, b"%d" % number * 2000) for number in range(1000)]
    ended: list[int] = []
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: ended.append(number))  # type: ignore[misc]
    held.let_go()
    assert not wait([first, *futures], PATIENCE).not_done
    assert [future.result()[:3] for future in futures[-2:]] == [b"998", b"999"]
    until(lambda: len(ended) == 1000)
    assert ended == sorted(ended)


@lends
def test_others_get_their_turn(make_pool: MakePool) -> None:
    """A pool that is never idle gives a worker back now and then, for whoever else uses the backend."""
    backend = BACKENDS[make_pool.kind](2)
    pool = make_pool(2, factory_of=lambda _: lambda _: backend, queue_capacity=100, own_backend=True)
    enough = threading.Event()

    def again(_: Future[int]) -> None:
        if not enough.is_set():
            pool.submit(abs, -1).add_done_callback(again)

    for _ in range(20):
        again(Future())
    until(lambda: pool.stats().completed[Result.OK] > 100)
    try:
        assert [backend.submit(abs, -n).result(PATIENCE) for n in range(3)] == [0, 1, 2]
    finally:
        enough.set()


@lends
def test_a_worker_that_stands_still(make_pool: MakePool, held: Held) -> None:
    """What would wait behind a task that does not end is taken by the other worker."""
    pool = make_pool(2, queue_capacity=200)
    for short in [pool.submit(abs, -number) for number in range(200)]:
        short.result(PATIENCE)  # so short that several go ahead
    stuck = held.submit(pool)
    held.wait_running(1)
    (worker,) = held.pids()
    os.kill(worker, signal.SIGSTOP)
    try:
        others = {future.result(PATIENCE) for future in [pool.submit(work.pid) for _ in range(100)]}
        assert len(others - {worker}) == len(others) == 1
    finally:
        held.let_go()
        os.kill(worker, signal.SIGCONT)
    assert stuck.result(PATIENCE) == worker


@only_fork
def test_no_path_of_our_own(make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no socket can be made, tasks go by the backend's own queue."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    pool = make_pool(2, queue_capacity=50)
    assert [future.result(PATIENCE) for future in [pool.submit(abs, -n) for n in range(50)]] == [*range(50)]


@lends
@only_where_lent
def test_a_path_that_is_gone(folder: Path, make_pool: MakePool, held: Held) -> None:
    """A worker that does not find its way, since somebody has cleaned up, is handed tasks by the backend."""
    pool = make_pool(2, queue_capacity=50)
    first = held.submit(pool)
    held.wait_running(1)
    for address in _addresses(folder):
        address.unlink()
    second = held.submit(pool)
    held.wait_running(2)
    held.let_go()
    futures: list[Future[Any]] = [pool.submit(abs, -number) for number in range(40)]
    assert not wait([first, second, *futures], PATIENCE).not_done
    assert check(pool.stats()).completed[Result.OK] == 42


@only_fork
@pytest.mark.parametrize("least", [0.019, 0.0])
def test_pauses_as_long_as_a_worker_is_kept(make_pool: MakePool, least: float) -> None:
    """A call that comes just when its worker is given back does not wait for the next call to come."""
    pool = make_pool(1)
    chance = random.Random(1)  # noqa: S311
    for number in range(150):
        time.sleep(least + chance.random() * 0.003)
        assert pool.submit(abs, -number).result(PATIENCE) == number


@only_fork
def test_interrupts(make_pool: MakePool, tmp_path: Path) -> None:
    """Whatever Ctrl-C strikes in a worker: each task ends once, and none runs twice."""
    pool = make_pool(2, factory=True, queue_capacity=2000)
    book = str(tmp_path / "book")
    futures = [pool.submit(work.sign_with, book, number) for number in range(1500)]
    chance = random.Random(1)  # noqa: S311
    while not all(future.done() for future in futures):
        for process in pool._engine.workers.holding():
            if chance.random() < 0.5:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGINT)  # type: ignore[attr-defined]
        time.sleep(chance.random() * 0.04)
    ran = Counter(map(int, Path(book).read_text().split()))
    assert max(ran.values()) == 1
    for number, future in enumerate(futures):
        assert future.exception(0) or (future.result(), ran[number]) == (number, 1)
    assert check(pool.stats()).completed[Result.OK] > 0


@only_fork
def test_a_fork_while_workers_are_lent(make_pool: MakePool) -> None:
    """A child of this process holds no end of a channel open, so that workers learn of its close."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as backend:
        build: Callable[[str], Any] = lambda _: lambda _: backend  # noqa: E731
        pool = make_pool(2, factory_of=build, own_backend=False)
        pool.submit(abs, -1).result(PATIENCE)
        sockets = _sockets(os.getpid())
        child = os.fork()
        if child == 0:
            time.sleep(60.0)
            os._exit(0)
        try:
            until(lambda: len(sockets - _sockets(child)) >= 3)  # where calls are written, read, and come to
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert pool.submit(abs, -2).result(PATIENCE) == 2


def _sockets(pid: int) -> set[str]:
    sockets = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what is listed has a descriptor of its own, gone by now
            sockets.add(str(path.readlink()))
    return {link for link in sockets if link.startswith("socket:")}
