"""Pools that misbehave all at once, each in its own way, until SIGUSR1; from then on they behave.

Prints ``PORT n``, serves ``/metrics`` of that port and ends on SIGTERM. Its troubles are of the size that
rules exported with ``--window-scale 0.01`` and the thresholds of tests/alerts/rig.py speak of.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

from prometheus_client import start_http_server

import prodpool
from prodpool import BreakerPolicy, InstrumentedPool, RejectedError

LOOPBACK = "127.0.0.1"
DEADLINE = 0.3
# Those of the rules, and no more: whatever is exported is rendered and scraped five times a second.
BUCKETS = (0.5, 1.0, 2.5)
# Seconds that a pool is scraped before its metrics go away: longer than what stands for an hour.
SEEN_FOR = 40.0

over, better = threading.Event(), threading.Event()


class DependencyError(Exception):
    """What fails here."""


def works(seconds: float) -> None:
    over.wait(seconds)


def fails(seconds: float = 0.0) -> NoReturn:
    over.wait(seconds)
    raise DependencyError("connection reset")


def panics() -> NoReturn:
    raise SystemExit("a library called sys.exit")


def crashes() -> None:
    os._exit(1)


def hangs() -> None:
    better.wait()


class Trouble:
    """One pool, and a thread that offers it work every ``beat`` seconds."""

    made: list[InstrumentedPool] = []  # noqa: RUF012  # all of this process's, to be stopped at its end

    def __init__(self, name: str, workers: int, beat: float, **options: Any) -> None:
        self.name = name
        self._workers = workers
        self._options = options
        self.offers = 0
        self.pool = self.build()
        self._thread = threading.Thread(target=self._run, args=(beat,), name=name)
        self._thread.start()

    def build(self) -> InstrumentedPool:
        """Make the pool, which takes the place of a stopped one of its name."""
        pool = InstrumentedPool(
            ThreadPoolExecutor(self._workers), name=self.name, buckets=BUCKETS, **self._options
        )
        self.made.append(pool)
        return pool

    def _run(self, beat: float) -> None:
        while not over.wait(beat):
            self.offers += 1
            if better.is_set():
                self.recover()
            else:
                self.misbehave()

    def misbehave(self) -> None:
        """Make trouble once."""
        raise NotImplementedError

    def recover(self) -> None:
        """Be well once."""
        offer(self.pool.submit, works, 0.001)

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()


def offer(submit: Callable[..., Any], *task: Any) -> Future[Any] | None:
    """Submit, and have refusals counted by the pool alone."""
    try:
        future: Future[Any] = submit(*task)
    except RejectedError:
        return None
    return future


class Healthy(Trouble):
    def misbehave(self) -> None:
        self.recover()


class Growing(Trouble):
    """Has more than half of its places taken, steadily; none waits for long enough to be worse than that."""

    def misbehave(self) -> None:
        while self.pool.stats().queued < 70 and not better.is_set():
            offer(self.pool.submit, works, 0.05)

    def recover(self) -> None:
        if self.pool.stats().queued == 0:
            super().recover()


class Crowded(Trouble):
    """Keeps its small queue full: late starts, and workers that are always busy."""

    def misbehave(self) -> None:
        while not better.is_set() and self.pool.stats().queued < 10:
            offer(self.pool.submit, works, 0.25)


class Bursts(Trouble):
    """Has many tasks at once, of which the last ones wait for long, and then none for a while."""

    def misbehave(self) -> None:
        if self.pool.stats().in_flight == 0:
            for _ in range(15):
                offer(self.pool.submit, works, 0.1)


class Crawling(Trouble):
    """Works, a task a second, and has so many waiting that each has grown old before it starts."""

    def misbehave(self) -> None:
        while self.pool.stats().queued < 16 and not better.is_set():
            offer(self.pool.submit, works, 1.0)

    def recover(self) -> None:
        if self.pool.stats().queued == 0:
            super().recover()


class FillingUp(Trouble):
    """Has a queue that grows towards its bound, again and again, and turns before its tasks wait for long."""

    rising_since = 0.0

    def misbehave(self) -> None:
        self.rising_since = self.rising_since or time.monotonic()
        rising_for = time.monotonic() - self.rising_since
        if rising_for > 17.0:
            self.drain()
        while self.pool.stats().queued < min(44 * rising_for, 580) and not better.is_set():
            self.waiting.append(offer(self.pool.submit, works, 0.1))

    def __init__(self, name: str, workers: int, beat: float, **options: Any) -> None:
        self.waiting: list[Future[Any] | None] = []
        super().__init__(name, workers, beat, **options)

    def drain(self) -> None:
        """Begin anew."""
        for future in self.waiting:
            if future is not None:
                future.cancel()
        self.waiting.clear()
        self.rising_since = 0.0

    def recover(self) -> None:
        self.drain()
        super().recover()


class Panicking(Trouble):
    def misbehave(self) -> None:
        offer(self.pool.submit, panics)


class Dropping(Trouble):
    """Refuses a task a second, and does another."""

    def misbehave(self) -> None:
        offer(self.pool.submit, works, 0.1)
        offer(self.pool.submit, works, 0.0)


class Slow(Trouble):
    def misbehave(self) -> None:
        offer(self.pool.submit, works, 0.7)


class Burning(Trouble):
    """Fails half of a good many tasks."""

    one_in = 2

    def misbehave(self) -> None:
        for number in range(10):
            fail = (10 * self.offers + number) % self.one_in == 0
            offer(self.pool.submit, fails if fail else works, 0.0)

    def recover(self) -> None:
        for _ in range(10):
            super().recover()


class BurningSlowly(Burning):
    """Fails a twentieth of them."""

    one_in = 20


class Stalled(Trouble):
    """Has one worker, which hangs, and a task behind it."""

    def misbehave(self) -> None:
        if self.pool.stats().in_flight < 2:
            offer(self.pool.submit, hangs)


class Hung(Trouble):
    """Has one worker of four that hangs."""

    def misbehave(self) -> None:
        if self.pool.stats().running == 0:
            offer(self.pool.submit, hangs)
        else:
            self.recover()


class BreakerOpen(Trouble):
    def misbehave(self) -> None:
        offer(self.pool.submit, fails)


class Flapping(Trouble):
    """Fails until the breaker opens, has the probe succeed, and fails again."""

    def misbehave(self) -> None:
        half_open = self.pool.stats().breaker == "half_open"
        offer(self.pool.submit, works if half_open else fails, 0.0)


class Stopped(Trouble):
    """Is stopped early and goes on being offered work; a new pool takes its place in the end."""

    def misbehave(self) -> None:
        self.pool.stop(DEADLINE)
        super().recover()

    def recover(self) -> None:
        if self.pool.stats().state == "stopped":
            self.pool = self.build()
        super().recover()


class Losing(Trouble):
    """Is stopped with tasks queued, and made anew."""

    def misbehave(self) -> None:
        for _ in range(2):
            offer(self.pool.submit, works, 0.3)
        if self.offers % 10 == 5:
            self.pool.stop(0.01)
            self.pool = self.build()


class Vanishing(Trouble):
    """Has its metrics taken away when it has been seen for a while; a new pool brings them back."""

    began = 0.0

    def misbehave(self) -> None:
        self.began = self.began or time.monotonic()
        if time.monotonic() - self.began < SEEN_FOR:
            super().recover()
        elif self.pool.stats().state == "open":
            self.pool.stop(DEADLINE)
            self.pool.close_metrics()

    def recover(self) -> None:
        if self.pool.stats().state == "stopped":
            self.pool = self.build()
        super().recover()


class Rebuilding(Trouble):
    """Has worker processes that die, and work in between."""

    def build(self) -> InstrumentedPool:
        pool = prodpool.processes(name=self.name, max_workers=1, buckets=BUCKETS)
        self.made.append(pool)
        return pool

    def misbehave(self) -> None:
        for task in (crashes, time.time):
            future = offer(self.pool.submit, task)
            if future is not None:
                future.exception(10)

    def recover(self) -> None:
        offer(self.pool.submit, time.time)


class Dying(Rebuilding):
    """Has a worker process that dies now and then, too rarely to be one that dies again and again."""

    def misbehave(self) -> None:
        offer(self.pool.submit, crashes if self.offers % 20 == 10 else time.time)


class Churning(Trouble):
    """Has a pool built for every request, before that of the last one is stopped."""

    def misbehave(self) -> None:
        for _ in range(3):
            before, self.pool = self.pool, self.build()
            self.recover()
            before.stop(DEADLINE)
            self.made.remove(before)


def troubles() -> list[Trouble]:
    """Begin them all."""
    trips = BreakerPolicy(consecutive_failures=2, open_for=0.4)
    return [
        Healthy("healthy", 2, 0.1),
        Growing("growing", 1, 0.1, queue_capacity=100),
        Crowded("crowded", 1, 0.05, queue_capacity=10),
        Bursts("bursts", 1, 0.2, queue_capacity=50),
        Crawling("crawling", 1, 0.2, queue_capacity=50),
        FillingUp("filling_up", 6, 0.05, queue_capacity=1000),
        Panicking("panicking", 1, 0.05),
        Dropping("dropping", 1, 0.5, queue_capacity=0),
        Slow("slow", 4, 0.2, queue_capacity=50),
        Burning("burning", 1, 0.05, queue_capacity=100),
        BurningSlowly("burning_slowly", 1, 0.1, queue_capacity=100),
        Stalled("stalled", 1, 0.1, queue_capacity=10, hung_after=600.0),
        Stalled("all_hung", 1, 0.1, queue_capacity=10, hung_after=0.5),
        Hung("hung", 4, 0.2, hung_after=0.5),
        BreakerOpen("breaker_open", 1, 0.2, breaker=trips),
        Flapping("flapping", 1, 0.1, breaker=trips),
        Stopped("stopped", 1, 0.3, drain_deadline=DEADLINE),
        Losing("losing", 1, 0.2, queue_capacity=20),
        Vanishing("vanishing", 1, 0.2),
        Rebuilding("rebuilding", 1, 0.3),
        Dying("dying", 1, 0.3),
        Churning("churning", 1, 0.3),
    ]


def main() -> None:
    """Serve until SIGTERM."""
    # Not an Event: a handler that runs within a call of the same one would wait for itself.
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for wanted in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(wanted, lambda number, _: signals.put(number))
    server, thread = start_http_server(port=0, addr=LOOPBACK)
    running = troubles()
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    while signals.get() == signal.SIGUSR1:
        better.set()
    over.set()
    better.set()
    for telemetry_errors in running:
        telemetry_errors.join()
    for pool in Trouble.made:
        pool.stop(DEADLINE)
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main()
