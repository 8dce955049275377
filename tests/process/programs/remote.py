"""A process that comes to its end with a pool over worker processes that nobody stops.

``remote.py BACKEND WAY FOLDER``: the first is a start method or "loky". It says what `ending.py` says, and
before that ``WORKERS`` with the pids of those that have run a task.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from prodpool import InstrumentedPool

# Where nothing hangs the deadline is not what ends the drain.
DEADLINES = {"hung": 0.2, "never_up": 0.2}
# A pool that nobody refers to is drained at once; this one is to live until the end.
KEPT: list[InstrumentedPool] = []


def build(backend: str, deadline: float, initializer: Callable[[], object] | None) -> InstrumentedPool:
    options: dict[str, Any] = {"initializer": initializer}
    executor: Any
    if backend == "loky":
        import loky

        executor = loky.ProcessPoolExecutor(2, **options)
    else:
        context = multiprocessing.get_context(backend)
        executor = ProcessPoolExecutor(2, mp_context=context, **options)
    # No line about how busy the machine is.
    pool = InstrumentedPool(executor, name="test", drain_deadline=deadline, slow_after=60.0)
    KEPT.append(pool)
    return pool


def sleep_long() -> None:
    time.sleep(600)


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def hang(mark: str) -> None:
    Path(mark).touch()
    sleep_long()


def wait_for(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)


def warm(pool: InstrumentedPool) -> None:
    """Have both workers run a task, and say which they are."""
    pids = {future.result(30) for future in [pool.submit(nap, 0.2) for _ in range(2)]}
    say(f"WORKERS {' '.join(map(str, pids))}")


def unused(pool: InstrumentedPool, folder: Path) -> None:
    """No process was ever started."""


def idle(pool: InstrumentedPool, folder: Path) -> None:
    """The workers wait for tasks."""
    warm(pool)


def first(pool: InstrumentedPool, folder: Path) -> None:
    """The first task was submitted just now, and its process is only being started."""
    pool.submit(nap, 0.1)


def short(pool: InstrumentedPool, folder: Path) -> None:
    """The workers were sent tasks ahead of those that they run."""
    warm(pool)
    for _ in range(300):
        pool.submit_wait(int)


def drains(pool: InstrumentedPool, folder: Path) -> None:
    """Tasks still run when the exit begins, and others wait."""
    warm(pool)
    for _ in range(4):
        pool.submit(nap, 0.1)


def hung(pool: InstrumentedPool, folder: Path) -> None:
    """Tasks run that never end, and others wait."""
    warm(pool)
    marks = [folder / f"mark{number}" for number in range(5)]
    for mark in marks:
        pool.submit(hang, str(mark))
    wait_for(lambda: sum(mark.exists() for mark in marks) == 2)


def never_up(pool: InstrumentedPool, folder: Path) -> None:
    """The application's initializer never returns."""
    pool.submit(int)
    wait_for(lambda: bool(multiprocessing.active_children()))


def forgotten(pool: InstrumentedPool, folder: Path) -> None:
    """The system tells nobody how a worker process has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    warm(pool)
    began = time.monotonic()
    error = pool.submit(os._exit, 3).exception(30)
    say(f"LOST {type(error).__name__} {time.monotonic() - began}")
    warm(pool)


def say(line: str) -> None:
    """Print at once: a forked worker would have it in its buffer, too."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Come to the end that was asked for."""
    backend, way, folder = sys.argv[1:]
    logging.basicConfig(stream=sys.stdout, format="LOG %(message)s", level=logging.INFO)
    atexit.register(say, "ATEXIT")
    pool = build(backend, DEADLINES.get(way, 30.0), sleep_long if way == "never_up" else None)
    ways = (unused, idle, first, short, drains, hung, never_up, forgotten)
    {each.__name__: each for each in ways}[way](pool, Path(folder))
    say(f"ENDING {time.monotonic()}")


if __name__ == "__main__":
    main()
