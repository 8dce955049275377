"""What the tests of the core share: tasks that can be held, the law, and how a scrape is read."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from prodpool import InstrumentedPool, PoolFullError, PoolStats, Reason
from prodpool.scheduling.wait_queue import Waiter, WaitQueue
from prodpool.scheduling.worker import Worker

# Seconds after which a test that would hang fails. A machine that is busy takes a while for anything.
PATIENCE = 30.0
# Seconds beyond its deadline that a stop may take where something hangs for PATIENCE or for ever.
LEEWAY = 10.0
AFTER_ADMISSION = (Reason.EXPIRED, Reason.CANCELLED, Reason.SHUTDOWN)


class BoomError(Exception):
    """What a failing task raises here."""


class Hold:
    """A task that runs until it is let go: submit ``hold``, or ``hold, value`` to get the value back."""

    def __init__(self) -> None:
        self._started = threading.Semaphore(0)
        self._go = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self._started.release()
        assert self._go.wait(PATIENCE), "nobody let the task go"
        return value

    def wait_started(self, count: int = 1) -> None:
        """Wait until ``count`` more of them run."""
        for _ in range(count):
            assert self._started.acquire(timeout=PATIENCE), "the held task did not start"

    def let_go(self) -> None:
        self._go.set()


class WatchedLine(WaitQueue):
    """The line of a pool that says when somebody has come to stand in it.

    From outside, a submitter in line looks like one that has not come yet.
    """

    __slots__ = ("_came",)

    def __init__(self, pool: InstrumentedPool) -> None:
        dispatcher = pool._engine.dispatcher
        super().__init__(dispatcher.counters, pool._engine.now, dispatcher.lock)
        self._came = threading.Semaphore(0)
        with dispatcher.lock:
            assert not dispatcher.waiters.length
            dispatcher.waiters = self

    def push(self, item: Waiter) -> None:
        super().push(item)
        self._came.release()

    def wait(self, count: int = 1) -> None:
        """Wait until ``count`` more stand in line."""
        for _ in range(count):
            assert self._came.acquire(timeout=PATIENCE), "nobody came to stand in line"


class Crew:
    """Threads that each do one thing, whose outcomes can be asked for."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call ``fn(*args)`` in a thread of its own."""
        outcome: Future[Any] = Future()

        def run() -> None:
            try:
                outcome.set_result(fn(*args))
            except BaseException as error:  # noqa: BLE001
                outcome.set_exception(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return outcome

    def join(self) -> None:
        """Wait until all of them have ended."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


def occupy(pool: InstrumentedPool, hold: Hold, workers: int) -> list[Future[Any]]:
    """Keep ``workers`` workers busy, and return once they are."""
    futures: list[Future[Any]] = [pool.submit_wait(hold) for _ in range(workers)]
    hold.wait_started(workers)
    return futures


def fill(pool: InstrumentedPool, fn: Callable[..., Any]) -> list[Future[Any]]:
    """Submit ``fn`` until the pool is full, whatever its overload policy."""
    view = pool.options(wait=0)
    futures: list[Future[Any]] = []
    try:
        while True:
            futures.append(view.submit(fn))
    except PoolFullError:
        return futures


def law_holds(stats: PoolStats) -> bool:
    """Tell whether every admitted task is in exactly one place."""
    dropped = sum(stats.dropped[reason] for reason in AFTER_ADMISSION)
    return stats.submitted == sum(stats.completed.values()) + dropped + stats.queued + stats.running


def check(stats: PoolStats) -> PoolStats:
    """Assert conservation and bounds, and return ``stats``."""
    assert law_holds(stats), stats
    assert 0 <= stats.running <= stats.workers, stats
    assert 0 <= stats.queued <= stats.queue_capacity, stats
    return stats


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Return every sample of a scrape by its name and labels, as the text format writes them."""
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x[:1] != "#")}


def check_scrape(samples: dict[str, float], pool: str) -> None:
    """Assert conservation and bounds from what was scraped, and from nothing else."""

    def total(metric: str, *labels: str) -> float:
        wanted = {f'{metric}{{pool="{pool}"}}', *(f'{metric}{{pool="{pool}",{x}}}' for x in labels)}
        wanted |= {f'{metric}{{{x},pool="{pool}"}}' for x in labels}
        return sum(samples[name] for name in wanted & samples.keys())

    completed = total(
        "workerpool_completed_total",
        *(f'result="{result}"' for result in ("ok", "error", "panic", "timeout")),
    )
    dropped = total("workerpool_dropped_total", *(f'reason="{reason}"' for reason in AFTER_ADMISSION))
    queued, running = total("workerpool_queue_depth"), total("workerpool_workers_busy")
    state = {name: value for name, value in samples.items() if f'pool="{pool}"' in name and "le=" not in name}
    assert total("workerpool_submitted_total") == completed + dropped + queued + running, state
    assert 0 <= running <= total("workerpool_workers"), state
    assert 0 <= queued <= total("workerpool_queue_capacity"), state


def check_counters(before: dict[str, float], after: dict[str, float]) -> None:
    """Assert that nothing which may only grow has shrunk or gone between two scrapes."""
    shrunk = {
        name: (value, after.get(name))
        for name, value in before.items()
        if name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))
        and not after.get(name, -1.0) >= value
    }
    assert not shrunk, shrunk


class Ahead(Worker):
    """A worker that is given tasks ahead, of which it has not begun the last ``unbegun``."""

    def __init__(self) -> None:
        super().__init__("test", lambda: 0.0)
        self.ahead = deque()
        self.unbegun = 0

    def withdraw_ahead(self, *, sent: bool) -> int:  # noqa: ARG002
        """Return how many those are, once."""
        count, self.unbegun = self.unbegun, 0
        return count
