"""A process that forks while it has a pool: ``forking.py WAY``. It ends with 0 if all was as it should be.

Each forked child ends by ``os._exit``, with 0 if nothing in it went wrong, and is killed if it hangs. What
went wrong is on stderr.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import logging
import multiprocessing
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
import types
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

import prodpool
from prodpool import (
    BreakerOpenError,
    BreakerPolicy,
    InstrumentedPool,
    PoolClosedError,
    PoolForkedError,
    Reason,
    RejectedError,
    WorkerLostError,
)
from prodpool.concurrency import fork_hooks
from prodpool.concurrency.background_thread import background_thread
from prodpool.telemetry.exporters.prometheus import collector_of
from prodpool.workers.processes import restart_backoff

# Forking a process with threads is what this is about; 3.12 and later warn of it.
warnings.simplefilter("ignore", DeprecationWarning)
PATIENCE = 40.0
LOCKS = (type(threading.Lock()), type(threading.RLock()))
BACKENDS = ("executor", "threads", "processes", "factory")
CONTAINERS = (list, tuple, dict, set, frozenset, deque, types.MethodType, types.CellType, partial)
REGISTRY = CollectorRegistry(auto_describe=True)
COLLECTOR = collector_of(REGISTRY)


def forked(do: Callable[[], object], fork: Callable[[], int] = os.fork) -> int:
    """Call ``do`` in a forked child and return the child's pid."""
    pid = fork()
    if pid:
        return pid
    status = 1
    # Where it hangs, if it does.
    faulthandler.dump_traceback_later(PATIENCE / 2)
    try:
        do()
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait_for(pid: int) -> None:
    """Wait for a child; fail if it hung or went wrong."""
    handle = os.pidfd_open(pid)
    ended, _, _ = select.select([handle], [], [], PATIENCE)
    os.close(handle)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert ended, "the child hung"
    assert os.waitstatus_to_exitcode(status) == 0


@contextmanager
def holding(locks: list[Any]) -> Iterator[None]:
    """Have another thread hold each lock that is free, as one that is in the middle of something would."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        taken = [lock for lock in locks if lock.acquire(blocking=False)]
        held.set()
        go.wait(PATIENCE)
        for lock in taken:
            lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(PATIENCE)
    yield
    go.set()
    holder.join()


def locks_of(*roots: object) -> list[Any]:
    """Return every lock that prodpool, or the circuit breaker that it drives, reaches from ``roots``."""
    found: list[Any] = []
    seen: set[int] = set()
    to_see = list(roots)
    while to_see:
        each = to_see.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, types.FunctionType):
            to_see += each.__closure__ or ()
        elif isinstance(each, CONTAINERS) or type(each).__module__.split(".")[0] in {"prodpool", "pybreaker"}:
            to_see += gc.get_referents(each)
    return found


EVENTS: list[Any] = []
# The pids of the processes in which a pool's factory was called.
BUILT_BY: list[int] = []


def build(workers: int) -> ProcessPoolExecutor:
    """Build a backend as a pool's factory."""
    BUILT_BY.append(os.getpid())
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))


def hold() -> str:
    """Run until let go."""
    go, begun = EVENTS
    begun.set()
    go.wait(PATIENCE)
    return "held"


class Held:
    """A pool with one task running, one waiting and one done, and the futures of all three."""

    def __init__(self, backend: str = "executor", **options: Any) -> None:
        options = {"name": "held", "registry": REGISTRY, **options}
        context = multiprocessing.get_context("fork")
        self.pool = (
            prodpool.threads(max_workers=1, **options)
            if backend == "threads"
            else InstrumentedPool(ProcessPoolExecutor(1, mp_context=context), **options)
            if backend == "processes"
            else InstrumentedPool(build, max_workers=1, **options)
            if backend == "factory"
            else InstrumentedPool(ThreadPoolExecutor(1), **options)
        )
        # Before the first task, so that a worker process inherits them.
        self._go, begun = EVENTS[:] = context.Event(), context.Event()
        self.done = self.pool.submit(int)
        self.done.result(PATIENCE)
        self.running = self.pool.submit(hold)
        assert begun.wait(PATIENCE)
        self.queued = self.pool.submit(int)

    def let_go(self) -> None:
        """Let the tasks end, and see that the parent's pool is none the worse."""
        self._go.set()
        assert self.running.result(PATIENCE) == "held"
        assert self.queued.result(PATIENCE) == 0
        assert self.pool.submit(int).result(PATIENCE) == 0
        assert self.pool.stop(PATIENCE).drained
        assert 'workerpool_submitted_total{pool="held"} 4.0' in generate_latest(REGISTRY).decode()


def refused(call: Callable[..., Any], *args: Any, by: str = "held") -> None:
    """Assert that ``call`` raises the error that says what to do."""
    try:
        got = call(*args)
    except PoolForkedError as error:
        said, pool, rejected = str(error), error.pool, isinstance(error, RejectedError)
    else:
        raise AssertionError(f"{call} returned {got!r}")
    assert (pool, "build the pool after the fork" in said, rejected) == (by, True, False), said


def closed(call: Callable[..., Any], *args: Any) -> None:
    """Assert that ``call`` is rejected since the pool was stopped."""
    try:
        got = call(*args)
    except PoolClosedError as error:
        said = str(error)
    else:
        raise AssertionError(f"{call} returned {got!r}")
    assert "a pool does not open again" in said, said


class ErrorLines(logging.Handler):
    """Collects the messages of the lines of level ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        logging.getLogger("prodpool").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put(record.getMessage())


def use(held: Held) -> None:
    """No use starts a pool anew whose threads stayed in the parent; one line says so."""
    lines, threads = ErrorLines(), threading.active_count()
    pool, view = held.pool, held.pool.options(task="again")
    refused(pool.submit, int)
    refused(pool.submit_wait, int)
    refused(lambda: list(pool.map(int, [1])))
    refused(view.submit, int)
    refused(view.submit_wait, int)
    refused(pool.options(deadline=1.0, wait=0.1).submit, int)
    refused(pool.stats)
    refused(pool.pause)
    refused(pool.resume)
    refused(pool.dump)
    refused(pool.resize, 1)
    refused(pool.resize, 3)
    refused(lambda: list(view.map(int, [1])))
    assert repr(pool.name) in repr(pool)
    assert repr(pool.name) in repr(view)
    assert os.getpid() not in BUILT_BY

    async def submit_async(way_in: Any) -> object:
        return await (await way_in.submit_async(int))

    refused(lambda: asyncio.run(submit_async(pool)))
    refused(lambda: asyncio.run(submit_async(view)))
    line = lines.messages.get(timeout=PATIENCE)
    assert line.startswith("pool.forked pool=held"), line
    assert "build the pool after the fork" in line
    assert pool._holder.engine.log.thread.flush(PATIENCE)
    assert lines.messages.empty()
    assert threading.active_count() <= threads + 2  # the line's own, and that of asyncio


def use_anew(held: Held) -> None:
    """Each use finds a pool that begins at 0 and does all that a pool does; the view comes along."""
    pool, view = held.pool, held.pool.options(task="again")
    assert "not used in this one" in repr(pool)
    assert view.submit(abs, -1).result(PATIENCE) == 1
    assert pool.submit_wait(abs, -2).result(PATIENCE) == 2
    assert list(view.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]

    async def submit_async() -> int:
        return await (await pool.submit_async(abs, -3))

    assert asyncio.run(submit_async()) == 3
    stats = pool.stats()
    assert (stats.submitted, stats.state) == (8, "open")
    collected = {sample.name: sample.value for metric in COLLECTOR.collect() for sample in metric.samples}
    assert collected["workerpool_submitted_total"] == 8.0
    pool.pause()
    pool.resume()
    report = pool.stop(PATIENCE)
    assert report.drained
    closed(pool.submit, int)
    closed(view.submit, int)


def stop_first(held: Held) -> None:
    """A pool that is stopped before its first use here stays so."""
    stop(held)
    closed(held.pool.submit, int)
    closed(held.pool.stats)
    assert os.getpid() not in BUILT_BY


def ask_futures(held: Held) -> None:
    for future in (held.running, held.queued):
        refused(future.result)
        refused(future.result, 1.0)
        refused(future.exception, 1.0)
        refused(future.cancel)
        refused(future.add_done_callback, print)
        assert not future.done()
        repr(future)
    assert held.done.result() == 0
    repr(held.pool)


def stop(held: Held) -> None:
    began = time.monotonic()
    with held.pool:
        pass
    report = held.pool.stop()
    held.pool.shutdown()
    held.pool.shutdown(wait=False, cancel_futures=True)
    assert (report.completed, report.dropped, report.abandoned) == (0, 0, ())
    assert time.monotonic() - began < PATIENCE / 2


def scrape(held: Held) -> None:
    assert "pool=" not in generate_latest(REGISTRY).decode()
    held.pool.close_metrics()


def build_anew(held: Held) -> None:
    """The name is free again, the registry serves, and its pool does all that a pool does."""
    with InstrumentedPool(ThreadPoolExecutor(2), name="held", registry=REGISTRY) as pool:
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        assert 'workerpool_submitted_total{pool="held"} 5.0' in generate_latest(REGISTRY).decode()
    assert pool.stats().state == "stopped"


def watch_anew(_held: Held | None) -> None:
    """The child's own watchdog looks after its pools; the parent's thread is not here."""
    noticed = threading.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "task.still_running" in record.getMessage():
                noticed.set()

    logging.getLogger("prodpool").addHandler(Notice())
    with InstrumentedPool(ThreadPoolExecutor(1), name="own", registry=REGISTRY, hung_after=0.05) as pool:
        assert pool.submit(noticed.wait, PATIENCE).result(PATIENCE)


def forget(held: Held) -> None:
    """Nobody refers to the pool any more; a new one comes up after that."""
    held.__dict__.clear()
    build_anew(held)


def in_turn(*each: Callable[[Held], object], backend: str = "executor", **options: Any) -> None:
    held = Held(backend, **options)
    for do in each:
        wait_for(forked(partial(do, held)))
    held.let_go()


def inherited() -> None:
    """Every use of an inherited pool in a child says so at once; a pool of its own works there."""
    in_turn(use, ask_futures, stop, scrape, build_anew, watch_anew, forget)


def inherited_threads() -> None:
    """Over threads of its own a pool starts anew in each child."""
    in_turn(use_anew, ask_futures, stop_first, scrape, build_anew, watch_anew, forget, backend="threads")


def inherited_processes() -> None:
    """The same over processes, whose workers stay the parent's."""
    in_turn(use_anew, ask_futures, stop_first, scrape, build_anew, watch_anew, forget, backend="processes")


def inherited_factory() -> None:
    """The same over a factory, which is called in the child by the first use alone."""
    in_turn(use_anew, ask_futures, stop_first, scrape, build_anew, watch_anew, forget, backend="factory")


def stopped() -> None:
    """A pool that was stopped before the fork refuses in the child too, whatever locks were held then."""
    for backend in BACKENDS:
        held = Held(backend)
        held.let_go()
        with holding(locks_of(held.pool)):
            pid = forked(partial(closed, held.pool.submit, int))
        wait_for(pid)
        held.pool.close_metrics()


class OwnSubmit(ThreadPoolExecutor):
    """An executor of unknown kind, as far as a pool can tell."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def unused(fork: Callable[[Callable[[], object]], int] = forked) -> None:
    """A pool that was built and not used has no thread, and lives on in each child."""
    warnings.simplefilter("error", DeprecationWarning)  # of 3.12: a fork of a process that has threads
    context = multiprocessing.get_context("fork")
    backends: dict[str, Any] = {
        "executor": ThreadPoolExecutor(2),
        "processes": ProcessPoolExecutor(2, mp_context=context),
        "factory": build,
        "own_submit": OwnSubmit(2),
    }
    pools = [
        InstrumentedPool(backend, name=name, max_workers=2, registry=REGISTRY, breaker=BreakerPolicy())
        for name, backend in backends.items()
    ]
    pools.append(prodpool.threads(name="threads", registry=REGISTRY, max_workers=2))
    assert threading.active_count() == 1

    def use_in_child(pool: InstrumentedPool) -> None:
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads, and forks its workers
        assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]
        line = f'workerpool_submitted_total{{pool="{pool.name}"}} 5.0'
        assert line in generate_latest(REGISTRY).decode()
        assert pool.stop(PATIENCE).drained

    for _ in range(2):
        for pool in pools:
            wait_for(fork(partial(use_in_child, pool)))
    warnings.simplefilter("ignore", DeprecationWarning)
    for pool in pools:
        use_in_child(pool)


def c_forked(do: Callable[[], object]) -> int:
    """Fork as uWSGI does, in C, where no hook of Python's runs, and return the child's pid.

    CPython's own hook makes the interpreter's lock anew. Without it the lock is lost in a child if another
    thread waited for it, or was being started, just then (unbit/uwsgi 2387). No pool can mend that: such a
    child is given up and another one forked.
    """
    for _ in range(20):
        reader, writer = os.pipe()

        def do_if_sound(writer: int = writer) -> None:
            # Kills the process also where no Python code can run any more.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(5)
            exchange_the_interpreter()
            signal.alarm(0)
            os.write(writer, b"1")
            os.close(writer)
            do()

        # PyDLL: the interpreter stays this thread's, so that the child has it.
        pid = forked(do_if_sound, fork=ctypes.PyDLL(None).fork)
        os.close(writer)
        sound = os.read(reader, 1)
        os.close(reader)
        if sound:
            return pid
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGALRM
    raise AssertionError("no child of twenty had a sound interpreter")


def exchange_the_interpreter() -> None:
    """Have two threads take turns, as often as shows whether the interpreter's lock works."""
    ours, theirs = threading.Lock(), threading.Lock()
    ours.acquire()
    theirs.acquire()

    def take_turns() -> None:
        for _ in range(20):
            ours.acquire()
            theirs.release()

    thread = threading.Thread(target=take_turns)
    thread.start()
    for _ in range(20):
        ours.release()
        theirs.acquire()
    thread.join()


def unused_in_c() -> None:
    """The same where the fork is made in C."""
    unused(c_forked)


def used_in_c() -> None:
    """A fork made in C is noticed by the first use, also by several threads at once."""
    for backend, do in {"executor": use_at_once, "threads": use_anew, "factory": use_anew}.items():
        held = Held(backend)
        wait_for(c_forked(partial(do, held)))
        wait_for(c_forked(partial(stop_first, held)))
        held.let_go()
        held.pool.close_metrics()


def around_a_fork_in_c() -> None:
    """What else may be done in such a child before a pool is used there finds no pool of the parent's."""
    for backend in ("executor", "threads"):
        held = Held(backend)
        for do in (ask_futures, scrape, build_anew, collect):
            wait_for(c_forked(partial(do, held)))
        with holding(locks_of(held.pool, held.running, COLLECTOR)):
            pids = [c_forked(partial(do, held)) for do in (collect, build_anew)]
        for pid in pids:
            wait_for(pid)
        held.let_go()
        held.pool.close_metrics()


def started_elsewhere() -> None:
    """A pool cannot live on over an executor that was used without it: its threads are missing."""
    shared = ThreadPoolExecutor(2)
    shared.submit(int).result(PATIENCE)
    pool = InstrumentedPool(shared, name="held", registry=REGISTRY, own_backend=False)
    wait_for(forked(partial(refused, pool.submit, int)))
    assert pool.submit(int).result(PATIENCE) == 0


def by_an_earlier_hook() -> None:
    """A hook of the application's may use the pool before prodpool's own hook runs there."""
    held, seen = Held("threads"), []
    hook = fork_hooks._run_hooks

    def use_it() -> None:
        # As a hook does that was registered before prodpool was imported.
        seen.append(held.pool.submit(abs, -4).result(PATIENCE))
        hook()
        seen.append(held.pool.submit(abs, -5).result(PATIENCE))
        assert (seen, held.pool.stats().submitted) == ([4, 5], 2)

    wait_for(c_forked(use_it))
    held.let_go()


class Odd:
    """A factory that does something odd when it is called in a child."""

    def __init__(self) -> None:
        self.then: Callable[[], object] = int

    def __call__(self, workers: int) -> ThreadPoolExecutor:
        self.then()
        return ThreadPoolExecutor(workers)


def odd_factories() -> None:
    """A factory may raise, use the pool, or be stopped meanwhile: nothing is left of what it had begun."""
    odd = Odd()
    pool = InstrumentedPool(odd, name="held", max_workers=1, registry=REGISTRY)
    pool.submit(int).result(PATIENCE)

    def fail_once() -> None:
        odd.then = fail
        for _ in range(2):
            try:
                pool.submit(int)
            except LookupError:
                continue
            raise AssertionError("it did not raise")
        odd.then = int
        assert pool.submit(abs, -1).result(PATIENCE) == 1

    def use_within() -> None:
        results: list[int] = []

        def use_once() -> None:
            odd.then = int
            results.append(pool.submit(abs, -2).result(PATIENCE))

        odd.then = use_once
        results.append(pool.submit(abs, -3).result(PATIENCE))
        assert (results, pool.stats().submitted) == ([2, 3], 2)

    def stop_within() -> None:
        odd.then = pool.stop
        closed(pool.submit, int)
        closed(pool.submit, int)

    def closed_metrics() -> None:
        pool.close_metrics()
        assert pool.submit(abs, -1).result(PATIENCE) == 1
        assert "pool=" not in generate_latest(REGISTRY).decode()

    for do in (fail_once, use_within, stop_within, closed_metrics):
        wait_for(forked(do))
    assert pool.stop(PATIENCE).drained


def use_at_once(held: Held) -> None:
    """Every thread is refused, however many come at once."""
    with ThreadPoolExecutor(8) as executor:
        for refusal in [executor.submit(refused, held.pool.submit, int) for _ in range(32)]:
            refusal.result(PATIENCE)


def every_lock(backend: str) -> None:
    """The same again, each child being forked while another thread holds every lock of the pool."""
    # With a breaker, whose locks come first, and without.
    for breaker in (BreakerPolicy(failure_rate=0.5), None):
        held = Held(backend, breaker=breaker)
        using = use if backend == "executor" else use_anew
        for do in (using, ask_futures, stop, collect, build_anew):
            locks = locks_of(held.pool, held.running, background_thread(), COLLECTOR)
            assert len(locks) >= 8
            with holding(locks):
                pid = forked(partial(do, held))
            wait_for(pid)
        held.let_go()
        held.pool.close_metrics()


def collect(held: Held) -> None:
    """Scrape past the registry, whose own lock is not ours to mend."""
    assert not [metric for metric in COLLECTOR.collect() if metric.samples]
    held.pool.close_metrics()


def from_a_task() -> None:
    """A task may fork; in its child nobody is inside a task of any living pool."""
    held = Held()
    with InstrumentedPool(ThreadPoolExecutor(1), name="forker", registry=REGISTRY) as forker:

        def check() -> None:
            assert prodpool.current_task() is None
            stop(held)
            forker.stop()
            build_anew(held)

        forker.submit(lambda: wait_for(forked(check))).result(PATIENCE)
    held.let_go()


def to_the_end() -> None:
    """A child that ends as a whole interpreter does, by sys.exit, with its own pool and the inherited one."""
    held = Held()
    pid = os.fork()
    if not pid:
        pool = InstrumentedPool(ThreadPoolExecutor(2), name="own", registry=REGISTRY)
        pool.submit(int).result(PATIENCE)
        sys.exit(0)
    wait_for(pid)
    held.let_go()


def to_the_end_processes() -> None:
    """A child of multiprocessing, forked, with processes of its own and those inherited.

    One of os.fork would not end quietly: multiprocessing itself then wants to join its parent's children.
    """
    held, context = Held("processes"), multiprocessing.get_context("fork")

    def do() -> None:
        backend = ProcessPoolExecutor(2, mp_context=context)
        # Stopped: multiprocessing waits for processes that nobody has told to end before it lets threads end.
        with InstrumentedPool(backend, name="own", registry=REGISTRY) as pool:
            assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]

    child = context.Process(target=do)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    held.let_go()


def daemonic() -> None:
    """A process that may have no children says so at once; pools it inherited work as soon as it may."""
    context = multiprocessing.get_context("fork")
    inherited = [
        InstrumentedPool(ProcessPoolExecutor(1, mp_context=context), name="template", registry=REGISTRY),
        prodpool.processes(name="factory", max_workers=1, start_method="fork", registry=REGISTRY),
    ]

    def do() -> None:
        restart_backoff.FIRST_DELAY = 2 * PATIENCE  # to try again would take too long
        own = InstrumentedPool(ProcessPoolExecutor(1, mp_context=context), name="own", registry=REGISTRY)
        for pool in [*inherited * 2, own]:
            try:
                pool.submit(int).result(PATIENCE)
            except (RuntimeError, WorkerLostError) as error:
                assert "of_celery is a daemonic process" in str(error), error  # noqa: PT017
                assert "use a pool of threads" in str(error)  # noqa: PT017
            else:
                raise AssertionError("it should have raised")
        multiprocessing.current_process().daemon = False
        for pool in inherited:
            assert pool.submit(abs, -5).result(PATIENCE) == 5
            assert pool.stop(PATIENCE).drained

    child = context.Process(target=do, name="of_celery", daemon=True)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0


def half_read() -> None:
    """A child lets go of a map that its parent half read; the watchdog of its own pool outlives that."""
    pool, go = InstrumentedPool(ThreadPoolExecutor(1), name="held", registry=REGISTRY), threading.Event()
    results = [pool.map(lambda number: number and go.wait(PATIENCE), range(3))]
    assert next(results[0]) == 0

    def let_go() -> None:
        with InstrumentedPool(ThreadPoolExecutor(1), name="first", registry=REGISTRY):
            results.clear()
            watch_anew(None)

    wait_for(forked(let_go))
    go.set()
    assert list(results[0]) == [True, True]
    assert pool.stop(PATIENCE).drained


def submit_and_cancel(pool: InstrumentedPool, over: threading.Event) -> None:
    futures: list[Future[Any]] = []
    while not over.is_set():
        try:
            futures.append(pool.submit(sum, range(50)))
        except RejectedError:
            futures.append(pool.submit_wait(int))
        if len(futures) > 10:
            futures.pop().cancel()
            wait(futures, PATIENCE)
            futures.clear()


def look_at(pool: InstrumentedPool, over: threading.Event) -> None:
    while not over.is_set():
        pool.stats()
        # Past the registry's own lock: a child that is forked while it is held is not ours to mend.
        list(COLLECTOR.collect())


def live_on(pool: InstrumentedPool) -> None:
    refused(pool.submit, int)
    pool.stop()
    with InstrumentedPool(ThreadPoolExecutor(1), name="held", registry=CollectorRegistry()) as own:
        assert own.submit(int).result(PATIENCE) == 0


def hammered() -> None:
    """200 forks while eight threads submit, cancel, wait and scrape, from wherever they happen to be."""
    pool = InstrumentedPool(ThreadPoolExecutor(4), name="held", queue_capacity=8, registry=REGISTRY)
    pool.submit(int).result(PATIENCE)  # one that was not used yet lives on in a child
    over = threading.Event()
    threads = [
        threading.Thread(target=does, args=(pool, over), daemon=True)
        for does in [submit_and_cancel] * 6 + [look_at] * 2
    ]
    for thread in threads:
        thread.start()
    for _ in range(100):
        for pid in [forked(partial(live_on, pool)), forked(partial(live_on, pool))]:
            wait_for(pid)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert pool.stop(PATIENCE).drained
    counts_add_up(pool)


def chatty() -> Any:
    """Return a logger as a service has it, which writes to a file under a lock of its own."""
    sink = open(os.devnull, "w")  # noqa: PTH123, SIM115  # open until the end
    renderer = structlog.processors.JSONRenderer()
    return structlog.wrap_logger(structlog.PrintLogger(sink), processors=[renderer])


def busy_pools() -> list[InstrumentedPool]:
    """Return pools over threads and processes with everything on, each of whose tasks makes a line of log."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter(), schedule_delay_millis=10))
    context = multiprocessing.get_context("fork")
    backends: dict[str, Any] = {
        "held_executor": ThreadPoolExecutor(3),
        "held_processes": ProcessPoolExecutor(2, mp_context=context),
        "held_in_turn": lambda workers: ProcessPoolExecutor(workers, mp_context=context),
    }
    options: dict[str, Any] = {
        "max_workers": 2,
        "queue_capacity": 8,
        "registry": REGISTRY,
        "slow_after": 1e-9,
        "breaker": BreakerPolicy(failure_rate=0.9),
        "logger": chatty(),
        "tracer_provider": provider,
    }
    pools = [InstrumentedPool(backend, name=name, **options) for name, backend in backends.items()]
    return [*pools, prodpool.threads(name="held_threads", **options)]


def fail() -> None:
    raise LookupError


def submit_all_sorts(pool: InstrumentedPool, over: threading.Event) -> None:
    while not over.is_set():
        try:
            futures = [pool.submit_wait(call) for call in (int, fail, int)]
            futures.append(pool.options(timeout=PATIENCE, idempotent=True).submit_wait(int))
            futures.pop(0).cancel()
            wait(futures, PATIENCE)
            list(pool.map(abs, range(3)))
        except BreakerOpenError:
            over.wait(0.01)


def scrape_all(pools: list[InstrumentedPool], over: threading.Event) -> None:
    while not over.is_set():
        scraped(pools)


def scraped(pools: list[InstrumentedPool]) -> str:
    """Scrape by a registry that nobody else uses: the lock of one that is shared is not ours to mend."""
    own = CollectorRegistry()
    own.register(COLLECTOR)
    return generate_latest(own).decode()


def use_all(pools: list[InstrumentedPool], future: Future[Any], anew: int) -> None:
    """Use the inherited pool over an executor in each way, start one of the others anew, and build one."""
    began = time.monotonic()
    assert "pool=" not in scraped(pools)
    inherited = pools[0]
    for call in (inherited.submit, inherited.submit_wait, inherited.options(wait=1.0).submit):
        refused(call, int, by=inherited.name)
    refused(inherited.stats, by=inherited.name)
    refused(lambda: list(inherited.map(int, [1])), by=inherited.name)
    assert [future.result(PATIENCE) for future in [pools[anew].submit(int) for _ in range(3)]] == [0, 0, 0]
    counts_add_up(pools[anew])
    if not future.done():
        refused(future.result, 1.0, by=pools[1].name)
    for pool in pools:
        assert pool.stop().drained
        pool.close_metrics()
    with prodpool.threads(name=pools[0].name, max_workers=1, registry=CollectorRegistry()) as own:
        assert own.submit(int).result(PATIENCE) == 0
    assert time.monotonic() - began < PATIENCE / 2


def busy() -> None:
    """200 forks beside pools of every kind, while their tasks are logged, traced and scraped."""
    pools, over = busy_pools(), threading.Event()
    for pool in pools:
        # A module that is half imported at a fork can never be imported in the child.
        pool.submit(int).result(PATIENCE)
    threads = [threading.Thread(target=submit_all_sorts, args=(pool, over)) for pool in pools * 2]
    threads.append(threading.Thread(target=scrape_all, args=(pools, over)))
    for thread in threads:
        thread.start()
    for number in range(100):
        futures = [pools[1].submit_wait(int) for _ in range(2)]
        for pid in [forked(partial(use_all, pools, future, 1 + number % 3)) for future in futures]:
            wait_for(pid)
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    for pool in pools:
        assert pool.stop(PATIENCE).drained
        counts_add_up(pool)


def counts_add_up(pool: InstrumentedPool) -> None:
    stats = pool.stats()
    dropped = stats.dropped[Reason.CANCELLED] + stats.dropped[Reason.SHUTDOWN]
    assert stats.submitted == sum(stats.completed.values()) + dropped, stats


if __name__ == "__main__":
    ways = [inherited, inherited_threads, inherited_processes, from_a_task, to_the_end, to_the_end_processes]
    ways.append(daemonic)
    ways += [
        inherited_factory,
        stopped,
        unused,
        unused_in_c,
        used_in_c,
        around_a_fork_in_c,
        started_elsewhere,
    ]
    ways += [by_an_earlier_hook, odd_factories, half_read, hammered, busy]
    locked = {f"every_lock_{backend}": partial(every_lock, backend) for backend in BACKENDS}
    ({way.__name__: way for way in ways} | locked)[sys.argv[1]]()
