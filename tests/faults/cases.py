"""A pool in some state, what is interrupted there, and what has to hold after it."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool
from tests.helpers.accounting import unsettled
from tests.helpers.waiting import poll

# Seconds within which anything must happen that is only being set up.
PATIENCE = 30.0
# Seconds that the exit may take over a pool that nobody stopped.
DRAIN = 15.0
REMOTE = ("processes", "process_pool")
_numbers = itertools.count(1)


def noop() -> int:
    return 1


def wait_for_file(path: str) -> int:
    """Run until somebody makes the file."""
    poll(Path(path).exists, PATIENCE)
    return 1


def meet(others: threading.Barrier | None) -> None:
    """Wait for the other workers; where there is no way to, for long enough that they start as well."""
    if others is None:
        time.sleep(0.002)
    else:
        others.wait(PATIENCE)


@dataclass
class Case:
    """One pool that is interrupted once.

    Attributes:
        pool: The pool; None until the action has built it.
        kind: "executor" or "threads", "process_pool" or "processes".
        workers: Tasks that can run at once afterwards.
        act: What is interrupted.
        futures: What the caller or another thread holds; all of them must end.
        again: What a caller does who was interrupted: it asks for the same once more.
        told: What else must hold; returns a complaint or None.
        may_stop: Whether the pool may be stopped afterwards.
        hasty: Whether that stop leaves it no time to drain.
        inline: Whether a submit beyond the workers runs in its caller, or blocks it.
        keeps: Errors that may stay in the future, since a task which its caller runs may raise them itself.
    """

    kind: str
    pool: InstrumentedPool
    registry: CollectorRegistry
    workers: int
    folder: str
    act: Callable[[], object] = noop
    futures: list[Future[Any]] = field(default_factory=list)
    again: Callable[[], object] = noop
    told: Callable[[], str | None] = lambda: None
    may_stop: bool = False
    hasty: bool = False
    inline: bool = False
    keeps: tuple[type[BaseException], ...] = ()
    _event: threading.Event = field(default_factory=threading.Event)

    @property
    def remote(self) -> bool:
        """Whether tasks run in other processes."""
        return self.kind in REMOTE

    def hold(self, count: int = 1) -> None:
        """Have ``count`` tasks run that end with `release`."""
        for _ in range(count):
            if self.remote:
                future = self.submit(wait_for_file, self._file)
            else:
                future = self.submit(self._event.wait, PATIENCE)
            if not poll(future.running, PATIENCE, 0.0005):
                raise AssertionError("the held task did not start")

    def release(self) -> None:
        """End what is held."""
        self._event.set()
        if self.remote:
            with suppress(FileNotFoundError):  # the folder has gone with the case
                Path(self._file).touch()

    def release_when(self, condition: Callable[[], bool]) -> None:
        """End what is held once ``condition`` holds, or a moment later if it never does."""

        def wait() -> None:
            with suppress(MemoryError):  # where allocations fail, they do in this thread as well
                poll(condition, 0.05)
            self.release()

        threading.Thread(target=wait, daemon=True).start()

    def submit(self, fn: Callable[..., Any] = noop, *args: Any) -> Future[Any]:
        """Submit, and keep the future to see that it ends."""
        future = self.pool.submit(fn, *args)
        self.futures.append(future)
        return future

    def close(self) -> None:
        """Remove what was made outside the pool."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _file(self) -> str:
        return str(Path(self.folder, "go"))


def build(kind: str, name: str, workers: int, **options: Any) -> InstrumentedPool:
    """Build a pool of one of the four kinds."""
    if kind == "executor":
        return InstrumentedPool(ThreadPoolExecutor(workers, thread_name_prefix=name), name=name, **options)
    if kind == "threads":
        return prodpool.threads(name=name, max_workers=workers, **options)
    if kind == "process_pool":
        return InstrumentedPool(ProcessPoolExecutor(workers), name=name, **options)
    return prodpool.processes(name=name, max_workers=workers, **options)


def prepare(kind: str, workers: int = 1, capacity: int = 2, *, warm: bool = True, **options: Any) -> Case:
    """Return a case whose pool has its workers up (``warm``) and nothing to do."""
    registry = CollectorRegistry(auto_describe=True)
    options = {"queue_capacity": capacity, "registry": registry, "drain_deadline": DRAIN, **options}
    pool = build(kind, f"case_{next(_numbers)}", workers, **options)
    folder = tempfile.mkdtemp() if kind in REMOTE else ""
    case = Case(kind, pool, registry, workers, folder)
    case.inline = options.get("overload", "reject") != "reject"
    if warm:
        warm_up(case)
    return case


def warm_up(case: Case) -> None:
    """Have all workers up, and back from their first task."""
    if case.remote:
        futures = [case.pool.submit(meet, None) for _ in range(case.workers)]
    else:
        together = threading.Barrier(case.workers)
        futures = [case.pool.submit(meet, together) for _ in range(case.workers)]
    for future in futures:
        future.result(PATIENCE)
    at_rest(case.pool)


def at_rest(pool: InstrumentedPool) -> None:
    """Wait until all that was submitted is counted as ended."""
    poll(lambda: not unsettled(pool.stats()), PATIENCE, 0.0005)
