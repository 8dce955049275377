"""What is wrong with a pool after a fault. States are polled up to a bound: the watchdog may mend them."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

from prodpool import InstrumentedPool, RejectedError
from tests.faults.cases import Case, noop
from tests.helpers.accounting import unsettled
from tests.helpers.waiting import poll

# Seconds within which a state must be right. The watchdog needs about one; the machine may be busy, and where
# processes are started it is.
SETTLE = 8.0
SETTLE_REMOTE = 40.0
# Seconds in which a worker too many would have begun its task, were there one.
TOO_MANY = 0.004
STOP = 5.0
STOP_REMOTE = 20.0
# Seconds beyond its deadline that a stop may take on a busy machine.
LEEWAY = 4.0


def judge(case: Case, *, leave: bool = False) -> list[str]:
    """Return what is wrong with the pool of ``case``; stop it unless it is to be left to the exit."""
    case.release()
    case.again()
    found = _settle(case)
    if not found and case.pool.stats().state == "open":
        found = _told(case) or _probed(case) or _works(case) or _settle(case)
    if not (leave and not found):
        found += _stops(case, sound=not found)
        case.close()
    return found


def _patience(case: Case) -> float:
    return SETTLE_REMOTE if case.remote else SETTLE


def _settle(case: Case) -> list[str]:
    """Wait until everything has ended; return what has not."""
    found: list[str] = []

    def settled() -> bool:
        stats = case.pool.stats()
        found[:] = unsettled(stats)
        if not all(future.done() for future in case.futures):
            found.append("a future that somebody holds is never done")
        if stats.state not in ({"open", "stopped"} if case.may_stop else {"open"}):
            found.append(f"the pool is {stats.state} for ever")
        return not found

    poll(settled, _patience(case))
    return found


def _told(case: Case) -> list[str]:
    complaint = case.told()
    return [] if complaint is None else [complaint]


def _probed(case: Case) -> list[str]:
    """Close a breaker by one task, for which there must be a permit."""
    if case.pool.stats().breaker is None:
        return []
    try:
        return _ended(case, [submit(case.pool, noop)])
    except RejectedError as error:
        return [f"the breaker lets no task through: {error}"]


def _works(case: Case) -> list[str]:
    """See that as many tasks as there are workers run at once, and no more."""
    if case.remote:
        return _works_remotely(case)
    here = _Meeting(case.workers)
    try:
        futures = [submit(case.pool, here.attend) for _ in range(case.workers)]
    except RejectedError as error:
        here.end.set()
        return _refused(case, error)
    if not case.inline:
        with suppress(RejectedError):
            futures.append(case.pool.submit(here.attend))
    found = []
    if not here.complete.wait(SETTLE):
        found.append(f"only {here.here} of {case.workers} workers take a task")
    if here.too_many.wait(TOO_MANY):
        found.append(f"{here.here} tasks run at once, {case.workers} may")
    here.end.set()
    return found + _ended(case, futures)


def _refused(case: Case, error: RejectedError) -> list[str]:
    """Excuse a pool that was open a moment ago while another thread was about to carry on its stop."""
    if case.may_stop and case.pool.stats().state != "open":
        return []
    return [f"the next submit is refused: {error}"]


class _Meeting:
    """Tasks that wait for each other, and say when there are enough or too many of them."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self.here = 0
        self.complete, self.too_many, self.end = threading.Event(), threading.Event(), threading.Event()

    def attend(self) -> None:
        with self._lock:
            self.here += not self.end.is_set()
            reached = self.here
        if reached >= self._wanted:
            self.complete.set()
        if reached > self._wanted:
            self.too_many.set()
        self.end.wait(SETTLE + LEEWAY)


def _works_remotely(case: Case) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            futures = [submit(case.pool, attend, folder, case.workers) for _ in range(case.workers)]
        except RejectedError as error:
            return _refused(case, error)
        if found := _ended(case, futures):
            return found
        if not all(future.result() for future in futures):
            return [f"not all {case.workers} workers take a task"]
    return []


def attend(folder: str, wanted: int) -> bool:
    """Wait in a worker process until ``wanted`` tasks are here at once; tell whether they came."""
    mine = tempfile.NamedTemporaryFile(dir=folder, delete=False)  # noqa: SIM115  # the folder is removed
    mine.close()
    return poll(lambda: len(list(Path(folder).iterdir())) >= wanted, SETTLE_REMOTE)


def _ended(case: Case, futures: list[Future[Any]]) -> list[str]:
    _, left = wait(futures, _patience(case) + LEEWAY)
    if left:
        return [f"{len(left)} of {len(futures)} later tasks never end"]
    errors = [error for future in futures if (error := future.exception()) is not None]
    return [f"a later task fails with {errors[0]!r}"] if errors else []


def submit(pool: InstrumentedPool, fn: Any, *args: Any) -> Future[Any]:
    """Submit; a refusal that ends within the bound is one that the pool has mended."""
    ends = time.monotonic() + SETTLE
    while True:
        try:
            return pool.submit(fn, *args)
        except RejectedError:
            if time.monotonic() > ends or pool.stats().state != "open":
                raise
            time.sleep(0.005)


def _stops(case: Case, *, sound: bool) -> list[str]:
    """Stop the pool; see that it comes back in time, drained, and with no thread left."""
    pool = case.pool
    seconds = (STOP_REMOTE if case.remote else STOP) if sound else 0.3
    began = time.monotonic()
    report = pool.stop(seconds)
    took = time.monotonic() - began
    found = []
    if took > seconds + LEEWAY:
        found.append(f"stop({seconds:g}) took {took:.1f} s")
    if not poll(lambda: pool.stats().state == "stopped", _patience(case)):
        found.append(f"{pool.stats().state} after stop()")
    if not sound:
        return found
    if not case.hasty and (not report.drained or report.abandoned):
        found.append(f"stop() did not drain: {report}")
    if not poll(lambda: not _threads(pool), _patience(case)):
        found.append(f"threads are left: {_threads(pool)}")
    return found


def _threads(pool: InstrumentedPool) -> list[str]:
    """Name the pool's threads, but not those that CPython lists for ever: their ``start`` was interrupted."""
    ours = re.compile(rf"\b{pool.name}(?!\d)")
    return [thread.name for thread in threading.enumerate() if thread.is_alive() and ours.search(thread.name)]
