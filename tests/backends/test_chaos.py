"""Pools over worker processes that are killed, stopped, resized and ended early, at random."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from prodpool import InstrumentedPool, RejectedError
from tests.backends import work
from tests.backends.conftest import PATIENCE, MakePool
from tests.helpers.accounting import check
from tests.helpers.waiting import until, until_collected
from tests.support import child_processes

# Pools of one run; by hand with PRODPOOL_CHAOS=300.
POOLS = int(os.environ.get("PRODPOOL_CHAOS", "8"))
# Seconds that one pool is used for, and those that a process stands still at most.
USED_FOR = 0.6
STOPPED_FOR = 0.1
LARGE = 3_000_000
# Descriptors that may be left: those of the helpers of multiprocessing, which stay.
HELPERS = 12

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(60 + 10 * POOLS),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


@pytest.fixture
def chance() -> random.Random:
    """Choose a seed and print it: a run is repeated with it."""
    seed = random.randrange(1_000_000)  # noqa: S311
    print("seed", seed)  # noqa: T201  # pytest shows it when the test fails
    return random.Random(seed)  # noqa: S311


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Leave the process hardly more descriptors than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptors() + 14, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("kind", ["fork", "forkserver"], indirect=True)
def test_chaos(make_pool: MakePool, chance: random.Random) -> None:
    """Every future ends once, the law holds, and no process, thread or descriptor is left."""
    threads, children, descriptors = threading.active_count(), child_processes(), _descriptors()
    for _ in range(POOLS):
        _mistreat(make_pool(chance.randint(1, 4), queue_capacity=50), chance)
    until(lambda: child_processes() <= children, PATIENCE)
    until(lambda: threading.active_count() <= threads + 2, PATIENCE)
    # A process object has some, and an exception may hold on to one until the collector comes by.
    until_collected(lambda: _descriptors() <= descriptors + HELPERS)


@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("kind", ["fork"], indirect=True)
def test_chaos_with_few_descriptors(make_pool: MakePool, chance: random.Random) -> None:
    """Where there are none for another worker the pool goes on with those that it has, or says why not."""
    for _ in range(max(1, POOLS // 4)):
        _mistreat(make_pool(4, queue_capacity=50), chance)


def _mistreat(pool: InstrumentedPool, chance: random.Random) -> None:
    futures: list[Future[Any]] = []
    told: list[int] = []
    ends_at = time.monotonic() + USED_FOR * chance.random()
    while time.monotonic() < ends_at:
        with contextlib.suppress(RejectedError):
            future = _submit(pool, chance)
            number = len(futures)
            future.add_done_callback(partial(_note, told, number))
            futures.append(future)
        if chance.random() < 0.05:
            _strike(pool, chance)
        if chance.random() < 0.02:
            pool.resize(chance.randint(1, 4))
    began = time.monotonic()
    deadline = chance.choice([0.0, 0.1, 5.0])
    pool.stop(deadline)
    assert time.monotonic() - began < deadline + PATIENCE
    assert not wait(futures, PATIENCE).not_done
    until(lambda: len(told) == len(futures))
    assert len(set(told)) == len(told)
    until(lambda: pool.stats().in_flight == 0, PATIENCE)
    check(pool.stats())


def _note(told: list[int], number: int, _: Future[Any]) -> None:
    told.append(number)


def _submit(pool: InstrumentedPool, chance: random.Random) -> Future[Any]:
    view = pool.options(
        idempotent=chance.random() < 0.5,
        timeout=0.05 if chance.random() < 0.1 else None,
        deadline=0.1 if chance.random() < 0.1 else None,
    )
    what = chance.random()
    if what < 0.6:
        return view.submit(abs, -1)
    if what < 0.8:
        return view.submit(time.sleep, 0.01 * chance.random())
    if what < 0.9:
        return view.submit(bytes, chance.randrange(LARGE))
    return view.submit(work.die) if what < 0.92 else view.submit(len, b"x" * chance.randrange(LARGE))


def _strike(pool: InstrumentedPool, chance: random.Random) -> None:
    processes = [each for each in pool._engine.workers.owned_threads_or_processes() if hasattr(each, "pid")]
    if not processes:
        return
    pid: Any = chance.choice(processes).pid
    with contextlib.suppress(ProcessLookupError, TypeError):  # it has ended, or has not begun
        if chance.random() < 0.5:
            os.kill(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(STOPPED_FOR * chance.random(), _go_on, [pid]).start()


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
