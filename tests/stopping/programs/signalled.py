"""A process whose signal handler stops the pool that the main thread is busy submitting to.

``signalled.py ROUNDS``: that often a fresh pool is stopped by an alarm that comes at any bytecode of submit.
Ends with 0 if no stop was lost, late or wrong; says how long the stops took on stdout.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool, PoolClosedError, PoolFullError, PoolStats, Reason, StopReport
from prodpool.task.outcomes import AFTER_ADMISSION

DEADLINE = 1.0
# A handler may be on top of a frame that holds the pool's lock or the executor's: then it cannot have an
# exact report, but it has to get away. Seconds.
LEEWAY = 15.0


def build() -> InstrumentedPool:
    return InstrumentedPool(ThreadPoolExecutor(2), name="test", registry=CollectorRegistry())


def counts_add_up(stats: PoolStats) -> bool:
    dropped = sum(stats.dropped[reason] for reason in AFTER_ADMISSION)
    return stats.submitted == sum(stats.completed.values()) + dropped + stats.queued + stats.running


def submit_until(over: Callable[[], bool], pool: InstrumentedPool) -> int:
    """Submit without a pause, whatever the pool says; return how often it let a task in."""
    admitted = 0
    while not over():
        try:
            pool.submit(int)
            admitted += 1
        except (PoolFullError, PoolClosedError):
            continue
    return admitted


def over(reports: list[StopReport], number: int) -> bool:
    return len(reports) == number


def stopped_once_each(rounds: int) -> None:
    """Stop many pools, each from a handler on top of whatever submit was doing."""
    took: list[float] = []
    reports: list[StopReport] = []
    pool = build()

    def handler(signum: int, frame: Any) -> None:
        began = time.monotonic()
        reports.append(pool.stop(DEADLINE))
        took.append(time.monotonic() - began)

    signal.signal(signal.SIGALRM, handler)
    chance = random.Random(5)  # noqa: S311
    for number in range(1, rounds + 1):
        pool = build()
        # One round in ten begins with submits that start threads, and hold the executor's lock for it.
        warm = number % 10 != 0
        if warm:
            warm_up(pool)
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0001, 0.004))
        admitted = submit_until(partial(over, reports, number), pool)
        report, stats = pool.stop(DEADLINE), pool.stats()
        # Where the handler was in the way of the drain, the deadline may have passed before it began.
        assert report.drained == (stats.dropped[Reason.SHUTDOWN] == 0), (report, stats)
        assert report.abandoned == (), report
        assert counts_add_up(stats), stats
        assert admitted + 2 * warm == stats.submitted, (admitted, stats)
        assert stats.in_flight == 0, stats
    took.sort()
    sys.stdout.write(f"{rounds} stops, median {took[rounds // 2]:.4f} s, longest {took[-1]:.3f} s\n")
    sys.stdout.write(f"{sum(seconds > 0.2 for seconds in took)} took longer than 0.2 s\n")
    assert took[-1] < DEADLINE + LEEWAY, took[-10:]


def warm_up(pool: InstrumentedPool) -> None:
    """Have both workers of ``pool`` up."""
    both = threading.Barrier(2)
    for future in [pool.submit(both.wait) for _ in range(2)]:
        future.result(30)


def stopped_again_and_again(times: int) -> None:
    """Stop one pool thousands of times, from handlers on top of submit and on top of each other."""
    pool = build()
    # Its first use starts threads, for each of which ``Thread.start`` waits: signals that come faster than
    # that would be handled on top of each other until no frame is left.
    pool.submit(int).result(30)
    reports: list[StopReport] = []
    handled: queue.SimpleQueue[None] = queue.SimpleQueue()  # which a handler may use on top of itself

    def handler(signum: int, frame: Any) -> None:
        reports.append(pool.stop(DEADLINE))
        pool.shutdown(wait=False)
        handled.put(None)

    def send() -> None:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGUSR1)
            with contextlib.suppress(queue.Empty):
                # Within a stop's deadline no more than a hundred of them are on top of each other.
                handled.get(timeout=DEADLINE / 100)
        sent.set()

    sys.setswitchinterval(1e-4)  # so that sender and submitter take quick turns
    signal.signal(signal.SIGUSR1, handler)
    sent = threading.Event()
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    submit_until(sent.is_set, pool)
    final = pool.stop(DEADLINE)
    assert final.drained
    # The first may have been in the way of the lock and told what was known by then.
    exact = [report for report in reports if report == final]
    sys.stdout.write(f"{len(reports)} stops of one pool, {len(exact)} of them with the final report\n")
    assert len(exact) > len(reports) // 2
    assert counts_add_up(pool.stats())


if __name__ == "__main__":
    stopped_once_each(int(sys.argv[1]))
    stopped_again_and_again(2_000)
