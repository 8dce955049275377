"""Worker processes of the pool's own: what travels to them, what surrounds them, and who runs what when."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import socket
import stat
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import resource_sharer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import loky
import pytest

from prodpool import Result, WorkerLostError
from prodpool.workers.processes import connection
from prodpool.workers.processes.connection import WorkerConnection
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool, over_processes
from tests.helpers.accounting import check
from tests.helpers.waiting import LEEWAY, until
from tests.support import runs

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
each = pytest.mark.parametrize("kind", over_processes, indirect=True)
only_fork = pytest.mark.parametrize("kind", ["fork"], indirect=True)


def executor(kind: str, workers: int, initializer: Callable[..., object], *initargs: Any) -> Any:
    if kind == "loky":
        return loky.ProcessPoolExecutor(workers, initializer=initializer, initargs=initargs)
    return ProcessPoolExecutor(workers, multiprocessing.get_context(kind), initializer, initargs)


# What travels.


@each
def test_calls_of_every_size(make_pool: MakePool) -> None:
    """Small calls and large ones, with small results and large ones, go side by side."""
    pool = make_pool(2, queue_capacity=100)
    sizes = [(1 << power) + more for power in (0, 8, 15, 16, 20, 22) for more in (-1, 0, 200)] * 2
    futures = [pool.submit(bytes.upper, b"x" * size) for size in sizes]
    assert [future.result(PATIENCE) for future in futures] == [b"X" * size for size in sizes]
    large = [pool.submit(bytes, size) for size in sizes]
    assert [len(future.result(PATIENCE)) for future in large] == sizes
    check(pool.stats())


@each
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


@pytest.fixture
def sharing() -> Iterator[None]:
    """End the thread by which multiprocessing hands over what is open here."""
    yield
    resource_sharer.stop(PATIENCE)


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize(
    "kind",
    ["fork", "forkserver", pytest.param("loky", marks=pytest.mark.once)],
    indirect=True,
)
def test_what_is_open_travels(make_pool: MakePool) -> None:
    """Ends of pipes and sockets can be arguments and results, as multiprocessing hands them over."""
    pool = make_pool(1)
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        assert pool.submit(work.send_hello, theirs).result(PATIENCE) is None
        assert ours.poll(PATIENCE)
        assert ours.recv() == "hello"
    first, second = socket.socketpair()
    with first, second:
        pool.submit(work.sendall_hello, second).result(PATIENCE)
        first.settimeout(PATIENCE)
        assert first.recv(100) == b"hello"
    come_back = pool.submit(work.pipe_with_hello).result(PATIENCE)
    assert isinstance(come_back, Connection)
    with come_back:
        assert come_back.recv() == "hello"
    with pool.submit(work.socket_with_hello).result(PATIENCE) as end:
        end.settimeout(PATIENCE)
        assert end.recv(100) == b"hello"
    assert check(pool.stats()).completed[Result.OK] == 4


# What surrounds them.


@each
@pytest.mark.parametrize(
    "initializer",
    [
        pytest.param(
            work.drop_privileges, marks=pytest.mark.skipif(os.geteuid() != 0, reason="there are none to drop")
        ),
        work.close_standard_streams,
        work.use_up_descriptors,
        work.change_folder,
    ],
)
def test_an_initializer_that_takes_something_away(
    make_pool: MakePool, initializer: Callable[[], object]
) -> None:
    """A worker needs neither rights, nor streams, nor descriptors, nor a folder, beyond what it has."""
    pool = make_pool(2, factory_of=lambda kind: lambda workers: executor(kind, workers, initializer))
    pids = {pool.submit(work.pid).result(PATIENCE) for _ in range(20)}
    assert pids
    with pytest.raises(work.TaskError):
        pool.submit(work.boom).result(PATIENCE)
    assert len(pool.options(timeout=60.0).submit(bytes, 1 << 20).result(PATIENCE)) == 1 << 20
    assert pool.stop(PATIENCE).drained
    assert pool._engine.workers.rebuilds() == 0
    until(lambda: not any(map(runs, pids)))


@each
@pytest.mark.parametrize("what", ["ordinary", "missing", "too long", "no folder", "read-only"])
def test_no_name_on_a_file_system(
    make_pool: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Whatever the folder for temporary files is like, a pool works, and puts nothing there."""
    folder = tmp_path / "tmp"
    if what == "too long":
        folder = folder / ("x" * 120)
    if what == "no folder":
        folder.write_text("")
    elif what != "missing":
        folder.mkdir(parents=True)
    if what == "read-only":
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    pool = make_pool(
        2,
        factory_of=lambda kind: lambda workers: executor(kind, workers, work.use_folder, str(folder)),
        queue_capacity=50,
    )
    assert pool.submit(work.temporary_folder).result(PATIENCE) == str(folder)
    mark = tmp_path / "mark"
    hung = pool.options(timeout=0.5).submit(work.hang, str(mark))
    until(lambda: mark.exists() or hung.done())
    pool.dump()
    assert hung.exception(PATIENCE)
    futures = [pool.submit(abs, -number) for number in range(20)]
    assert [future.result(PATIENCE) for future in futures] == list(range(20))
    if what not in {"missing", "no folder"}:
        assert not list(folder.iterdir())
    assert pool.stop(PATIENCE).drained
    if what not in {"missing", "no folder"}:
        assert not list(folder.iterdir())


@each
def test_ctrl_c(make_pool: MakePool, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to worker processes too; it is the service's affair: no task hears of it."""
    pool = make_pool(2, queue_capacity=2000)
    book = str(tmp_path / "book")
    pids = {pool.submit(work.pid).result(PATIENCE) for _ in range(20)}
    futures = [pool.submit(work.sign_with, book, number) for number in range(1500)]
    chance = random.Random(1)  # noqa: S311
    while not all(future.done() for future in futures):
        for process in pool._engine.workers.owned_threads_or_processes():
            pid = getattr(process, "pid", None)
            if pid in pids and chance.random() < 0.5:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
        time.sleep(chance.random() * 0.01)
    assert [future.result(0) for future in futures] == list(range(1500))
    assert max(Counter(map(int, Path(book).read_text().split())).values()) == 1
    assert pool._engine.workers.rebuilds() == 0
    assert all(map(runs, pids))


@each
def test_a_fork_of_the_service(make_pool: MakePool, held: Held) -> None:
    """A child of this process holds no end of a connection open: deaths are noticed, and idle workers end."""
    pool = make_pool(2, queue_capacity=5)
    both = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    held.let_go()
    killed, idle = (future.result(PATIENCE) for future in both)
    sockets = _sockets(os.getpid())
    child = os.fork()
    if child == 0:
        time.sleep(60.0)
        os._exit(0)
    try:
        until(lambda: len(sockets - _sockets(child)) >= 3 * 2)
        os.kill(killed, signal.SIGKILL)
        until(lambda: pool._engine.workers.rebuilds() == 1)
        assert pool.submit(abs, -2).result(PATIENCE) == 2
        assert pool.stop(PATIENCE).drained
        until(lambda: not runs(idle))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _sockets(pid: int) -> set[str]:
    sockets = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # what is listed has a descriptor of its own, gone by now
            sockets.add(str(path.readlink()))
    return {link for link in sockets if link.startswith("socket:")}


@each
def test_no_descriptor_is_left(make_pool: MakePool, held: Held) -> None:
    """A process has the ends of its own connection and no other's, and a stopped pool leaves none here."""
    pool = make_pool(3)
    futures = [held.submit(pool) for _ in range(3)]
    held.wait_running(3)
    workers: list[Any] = list(pool._engine.dispatcher.worker_set.workers)
    here = set().union(*(_ends(worker.connection) for worker in workers))
    assert here <= _sockets(os.getpid())
    # The one that is open on both sides is that from which credits are taken, by either.
    common = [_sockets(worker.process.pid) & here for worker in workers]
    assert [len(each) for each in common] == [1, 1, 1]
    assert len(set().union(*common)) == 3
    held.let_go()
    assert not wait(futures, PATIENCE).not_done
    assert pool.stop(PATIENCE).drained
    until(lambda: not here & _sockets(os.getpid()))


def _ends(line: WorkerConnection) -> set[str]:
    return {f"socket:[{os.fstat(end.fileno()).st_ino}]" for end in line._sockets}


# Who runs what, and when.


@pytest.mark.parametrize("kind", ["forkserver", pytest.param("spawn", marks=pytest.mark.once)], indirect=True)
@pytest.mark.parametrize("prefetch", [None, 0, 10])
def test_at_most_so_many_tasks(make_pool: MakePool, prefetch: int | None) -> None:
    """A worker process is replaced after as many tasks as the executor was to give it."""
    context = multiprocessing.get_context(make_pool.kind)
    pool = make_pool(
        1,
        factory_of=lambda _: lambda workers: ProcessPoolExecutor(workers, context, max_tasks_per_child=3),
        queue_capacity=50,
        prefetch=prefetch,
    )
    pids = [future.result(PATIENCE) for future in [pool.submit(work.pid) for _ in range(20)]]
    assert [len(list(same)) for _, same in itertools.groupby(pids)] == [3, 3, 3, 3, 3, 3, 2]
    assert len(set(pids)) == 7
    assert pool._engine.workers.rebuilds() == 0
    until(lambda: sum(map(runs, set(pids))) == 1)


@pytest.mark.parametrize("kind", ["loky"], indirect=True)
def test_idle_workers_end(make_pool: MakePool, held: Held) -> None:
    """Executors of loky let idle workers go after a while, which is no loss; others come in time."""
    pool = make_pool(
        2,
        factory_of=lambda _: lambda workers: loky.ProcessPoolExecutor(workers, timeout=0.2),
        queue_capacity=100,
    )
    both = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    held.let_go()
    pids = {future.result(PATIENCE) for future in both}
    until(lambda: not any(map(runs, pids)))
    until(lambda: not pool._engine.dispatcher.worker_set.workers)
    assert pool.submit(work.pid).result(PATIENCE) not in pids
    assert pool._engine.workers.rebuilds() == 0
    assert not make_pool.logs.named("pool.backend_rebuilt")


@each
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


@each
def test_a_worker_that_stops_with_calls_ahead(make_pool: MakePool, held: Held) -> None:
    """What a stopped process was sent ahead the other runs, each once; the one that it had begun waits."""
    pool = make_pool(2, queue_capacity=2000)
    both = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    held.let_go()
    stopped, other = (future.result(PATIENCE) for future in both)
    for short in [pool.submit(abs, -number) for number in range(1000)]:
        short.result(PATIENCE)
    futures = [pool.submit(work.pid) for _ in range(1000)]
    os.kill(stopped, signal.SIGSTOP)
    try:
        until(lambda: sum(not future.done() for future in futures) <= 1)
        waits = [future for future in futures if not future.done()]
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert all(future.result(PATIENCE) == stopped for future in waits)
    assert {future.result(PATIENCE) for future in futures} <= {stopped, other}
    assert check(pool.stats()).completed[Result.OK] == 2002


@each
def test_no_more_at_once_than_workers(make_pool: MakePool) -> None:
    """Neither do more tasks run than may, nor is it ever said, however many were sent ahead."""
    pool = make_pool(2, queue_capacity=1000)
    over = threading.Event()
    seen: list[int] = []

    def look() -> None:
        while not over.wait(0.0005):
            seen.append(pool.stats().running)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for future in [pool.submit(abs, -number) for number in range(1000)]:
            future.result(PATIENCE)
        spans = [future.result(PATIENCE) for future in [pool.submit(work.span_of, 0.003) for _ in range(200)]]
        check(pool.stats())
    finally:
        over.set()
        looking.join()
    steps = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    assert max(itertools.accumulate(step for _, step in steps)) == 2
    assert max(seen) == 2


@each
def test_behind_a_long_task(make_pool: MakePool, held: Held, tmp_path: Path) -> None:
    """A task that was sent ahead to a worker whose task turns out long is soon run by an idle one."""
    pool = make_pool(2, queue_capacity=1000)
    delays = []
    for turn in range(5):
        for future in [pool.submit(abs, -number) for number in range(500)]:
            future.result(PATIENCE)
        (tmp_path / f"turn {turn}").mkdir()
        one = Held(tmp_path / f"turn {turn}")
        before = [pool.submit(abs, -number) for number in range(20)]
        long = one.submit(pool)
        behind = [pool.submit(work.began) for _ in range(20)]
        began = [future.result(PATIENCE) for future in behind]
        assert not long.done()
        one.let_go()
        assert long.result(PATIENCE)
        assert not wait(before, PATIENCE).not_done
        ((began_long, _),) = one.ran()
        delays.append(max(began) - began_long)
    # A busy machine may be late once and again.
    assert min(delays) < 0.1
    assert max(delays) < LEEWAY


@each
@pytest.mark.parametrize("task", [work.sign_at_once, work.sign_later])
def test_nothing_begins_after_a_stop(
    make_pool: MakePool, tmp_path: Path, task: Callable[[str], object]
) -> None:
    """Once stop() has returned no task begins, short ones that were sent ahead included."""
    pool = make_pool(2, queue_capacity=2000)
    for future in [pool.submit(abs, -number) for number in range(500)]:
        future.result(PATIENCE)
    book = tmp_path / "book"
    futures = [pool.submit(task, str(book)) for _ in range(1500)]
    until(book.exists)
    pool.stop(0.0)
    returned = time.monotonic()
    assert not wait(futures, PATIENCE).not_done
    until(lambda: pool.stats().in_flight == 0)
    until(lambda: not pool._engine.workers.owned_threads_or_processes())
    assert max(map(float, book.read_text().split())) <= returned
    stats = check(pool.stats())
    ran = len(book.read_text().split())
    assert sum(stats.completed.values()) - 500 <= ran + 2
    assert ran <= sum(stats.completed.values()) - 500


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Close the gate of what hangs in this process; it opens at the end at the latest.

    What is sent ahead stays there: on a busy machine it might be taken back before the first task is done.
    """
    monkeypatch.setattr(connection, "RESULT_WAIT_MS", 1000 * PATIENCE)
    work.gate.clear()
    yield work.gate
    work.gate.set()


@each
@pytest.mark.parametrize("where", ["callback", "pickling", "loading"])
def test_a_stop_while_the_pool_itself_hangs(
    make_pool: MakePool, held: Held, gate: threading.Event, where: str, tmp_path: Path
) -> None:
    """Whatever of the application's hangs in the pool's own thread: a stop ends all futures, and counts.

    What was sent ahead and not begun is dropped; what has begun is given up, since its outcome is not read.
    """
    pool = make_pool(1, queue_capacity=100, prefetch=50)
    before = held.submit(pool)
    held.wait_running(1)
    first = pool.submit(work.hangs_on_loading) if where == "loading" else pool.submit(abs, -1)
    if where == "callback":
        first.add_done_callback(lambda _: gate.wait(PATIENCE))
    book, never = tmp_path / "book", tmp_path / "never"
    begun: list[Future[Any]] = []
    behind: list[Future[Any]] = []
    submitted = threading.Event()

    def submit_others(_: object = None) -> None:
        if where == "pickling":
            behind.append(pool.submit(work.echo, one=work.HangsOnPickling()))
        else:
            begun.append(pool.submit(work.sign_at_once, str(book)))
            begun.append(pool.submit(work.wait_for, str(never)))
        behind.extend(pool.submit(work.sign_at_once, str(book)) for _ in range(20))
        submitted.set()

    if where == "pickling":
        # Not before: the thread that packs what hangs reads no result any more, and might be at that already.
        before.add_done_callback(submit_others)
    else:
        submit_others()
    held.let_go()
    assert before.result(PATIENCE)
    assert submitted.wait(PATIENCE)
    if where != "pickling":
        until(book.exists)
    report = pool.stop(0.3)
    assert not wait([first, *begun, *behind], 1.0).not_done
    assert all(future.cancelled() for future in behind)
    assert report.dropped == len(behind)
    if where == "callback":
        assert first.result() == 1
    assert all(isinstance(future.exception(), WorkerLostError) for future in begun)
    assert [name.rpartition(".")[2] for name in report.abandoned[1:]] == ["sign_at_once", "wait_for"][
        : len(begun)
    ]
    gate.set()
    until(lambda: pool.stats().in_flight == 0)
    check(pool.stats())
    assert not book.exists() or len(book.read_text().split()) == 1


@each
@pytest.mark.parametrize("how", ["pause", "watchdog"])
def test_behind_a_callback_that_hangs(
    make_pool: MakePool, held: Held, gate: threading.Event, how: str, tmp_path: Path
) -> None:
    """What was sent ahead to a worker whose callback hangs is taken back: by a pause, or after a while."""
    pool = make_pool(1, queue_capacity=100, prefetch=50, hung_after=0.5)
    before = held.submit(pool)
    held.wait_running(1)
    first = pool.submit(abs, -1)
    first.add_done_callback(lambda _: gate.wait(PATIENCE))
    mark, go = tmp_path / "mark", tmp_path / "later"
    long = pool.submit(work.hold, str(mark), str(go))
    behind: list[Future[Any]] = [pool.submit(abs, -number) for number in range(20)]
    held.let_go()
    assert before.result(PATIENCE)
    until(mark.exists)
    if how == "pause":
        pool.pause()
    until(behind[0].cancel)
    assert not any(future.running() for future in behind)
    pool.resume()
    gate.set()
    go.touch()
    assert long.result(PATIENCE)
    assert [future.result(PATIENCE) for future in behind[1:]] == list(range(1, 20))
    check(pool.stats())


@each
def test_pickled_once(make_pool: MakePool) -> None:
    """A call that is taken back and sent again is not pickled again: what it hands over would stay open."""
    pool = make_pool(2, queue_capacity=100, prefetch=8)
    work.CountsPickling.count = 0
    futures = [pool.submit(work.nap_with, work.CountsPickling(), 0.004) for _ in range(60)]
    assert not wait(futures, PATIENCE).not_done
    assert work.CountsPickling.count == 60
