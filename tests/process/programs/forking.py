"""A process that forks while it has a pool: ``forking.py WAY``. It ends with 0 if all was as it should be.

Each forked child ends by ``os._exit``, with 0 if nothing in it went wrong, and is killed if it hangs. What
went wrong is on stderr.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

import prodpool
from prodpool import InstrumentedPool, PoolClosedError, Reason, RejectedError

# Forking a process with threads is what this is about; 3.12 and later warn of it.
warnings.simplefilter("ignore", DeprecationWarning)
PATIENCE = 20.0
REGISTRY = CollectorRegistry(auto_describe=True)


def forked(do: Callable[[], object]) -> int:
    """Call ``do`` in a forked child and return the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
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


class Held:
    """A pool with one task running, one waiting and one done, and the futures of all three."""

    def __init__(self, backend: str = "executor") -> None:
        self.pool = (
            prodpool.threads(name="held", max_workers=1, registry=REGISTRY)
            if backend == "threads"
            else InstrumentedPool(ThreadPoolExecutor(1), name="held", registry=REGISTRY)
        )
        self._go = threading.Event()
        begun = threading.Event()
        self.done = self.pool.submit(int)
        self.done.result(PATIENCE)

        def hold() -> str:
            begun.set()
            self._go.wait(PATIENCE)
            return "held"

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


def refused(call: Callable[..., Any], *args: Any) -> None:
    """Assert that ``call`` raises the error that says what to do."""
    try:
        got = call(*args)
    except PoolClosedError as error:
        said, pool = str(error), error.pool
    else:
        raise AssertionError(f"{call} returned {got!r}")
    assert (pool, "build the pool after the fork" in said) == ("held", True), said


def use(held: Held) -> None:
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
    refused(pool.resize, 1)

    async def submit_async() -> object:
        return await (await pool.submit_async(int))

    refused(lambda: asyncio.run(submit_async()))


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


def in_turn(*each: Callable[[Held], object], backend: str = "executor") -> None:
    held = Held(backend)
    for do in each:
        wait_for(forked(partial(do, held)))
    held.let_go()


def inherited() -> None:
    """Every use of an inherited pool in a child says so at once; a pool of its own works there."""
    in_turn(use, ask_futures, stop, scrape, build_anew, watch_anew, forget)


def inherited_threads() -> None:
    """The same over daemon threads."""
    in_turn(use, ask_futures, stop, scrape, build_anew, watch_anew, forget, backend="threads")


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
        list(pool._engine.collector.collect())


def live_on(pool: InstrumentedPool) -> None:
    refused(pool.submit, int)
    pool.stop()
    with InstrumentedPool(ThreadPoolExecutor(1), name="held", registry=CollectorRegistry()) as own:
        assert own.submit(int).result(PATIENCE) == 0


def hammered() -> None:
    """200 forks while eight threads submit, cancel, wait and scrape, from wherever they happen to be."""
    pool = InstrumentedPool(ThreadPoolExecutor(4), name="held", queue_capacity=8, registry=REGISTRY)
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
    stats = pool.stats()
    dropped = stats.dropped[Reason.CANCELLED] + stats.dropped[Reason.SHUTDOWN]
    assert stats.submitted == sum(stats.completed.values()) + dropped, stats


if __name__ == "__main__":
    ways = (inherited, inherited_threads, from_a_task, to_the_end, half_read, hammered)
    {way.__name__: way for way in ways}[sys.argv[1]]()
