"""A service whose pools meet all that the dashboards show, over and over, within half a minute.

``busy.py SEED``: prints ``PORT n``, serves ``/metrics`` of that port, and ends cleanly on SIGTERM.

| pool             | what happens to it                                                            |
|------------------|-------------------------------------------------------------------------------|
| webhook_delivery | healthy, with a few errors; a burst of waiting submits now and then           |
| image_resize     | more work than it can do: refuses, lets tasks expire, has some cancelled      |
| card_payments    | its dependency falls ill and recovers: the breaker opens, tries and closes    |
| report_builder   | slow tasks, one that hangs for a while, one that panics                       |
| nightly_import   | stopped with work still queued, and built anew                                |
"""

from __future__ import annotations

import random
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import start_http_server

from prodpool import BreakerPolicy, InstrumentedPool, RejectedError, TaskExpiredError

LOOPBACK = "127.0.0.1"
# Seconds: how long a round of every pool's troubles takes, and how long the end may.
ROUND, DEADLINE = 20.0, 2.0


class DependencyError(Exception):
    """What fails in a task here."""


class Service:
    """The pools, and one thread of traffic for each."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._over = threading.Event()
        # Every span is sampled and none is exported: exemplars need a trace id, no more.
        self._tracing = TracerProvider(shutdown_on_exit=False)
        self._pools: list[InstrumentedPool] = []
        traffic = (self._webhooks, self._images, self._payments, self._reports, self._imports)
        self._threads = [
            threading.Thread(target=self._drive, args=(run, seed * 10 + number), name=run.__name__)
            for number, run in enumerate(traffic)
        ]

    def start(self) -> None:
        """Begin the traffic."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the traffic and the pools."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for pool in self._pools:
            pool.stop(DEADLINE)

    def _drive(self, run: Callable[[random.Random], None], seed: int) -> None:
        run(random.Random(seed))  # noqa: S311  # no secret is drawn from it

    def _pool(self, name: str, workers: int, **options: Any) -> InstrumentedPool:
        pool = InstrumentedPool(
            ThreadPoolExecutor(workers), name=name, tracer_provider=self._tracing, **options
        )
        self._pools.append(pool)
        return pool

    def _works(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _fails(self, seconds: float) -> NoReturn:
        self._over.wait(seconds)
        raise DependencyError("connection reset")

    def _panics(self) -> NoReturn:
        raise SystemExit("a library called sys.exit")

    def _beats(self, seconds: float) -> range:
        """Return the beats of one round, of which each is to last ``seconds``."""
        return range(round(ROUND / seconds))

    def _webhooks(self, rng: random.Random) -> None:
        names = ("Service._works", "Service._fails")
        pool = self._pool("webhook_delivery", 8, queue_capacity=64, task_metrics=names)
        patient = pool.options(wait=2.0)
        while not self._over.is_set():
            for beat in self._beats(0.02):
                work = self._fails if rng.random() < 0.004 else self._works
                offer(pool.submit, work, rng.lognormvariate(-3.4, 0.7))
                if beat % 250 == 100:
                    for _ in range(120):
                        offer(patient.submit, self._works, rng.uniform(0.005, 0.03))
                if self._over.wait(0.02):
                    return

    def _images(self, rng: random.Random) -> None:
        pool = self._pool("image_resize", 2, queue_capacity=24, task_metrics=("thumbnail", "poster"))
        thumbnail, poster = pool.options(task="thumbnail", deadline=0.5), pool.options(task="poster")
        while not self._over.is_set():
            for beat in self._beats(0.1):
                # Twice as much as two workers can do, in the second half of each round.
                for _ in range(4 if beat % 200 >= 100 else 1):
                    view = thumbnail if rng.random() < 0.4 else poster
                    future = offer(view.submit, self._works, rng.uniform(0.05, 0.15))
                    if future is not None and rng.random() < 0.05:
                        future.cancel()
                if self._over.wait(0.1):
                    return

    def _payments(self, rng: random.Random) -> None:
        policy = BreakerPolicy(consecutive_failures=5, open_for=1.0, successes_to_close=3)
        pool = self._pool("card_payments", 4, queue_capacity=32, breaker=policy)
        while not self._over.is_set():
            for beat in self._beats(0.05):
                ill = 160 <= beat < 240
                work = self._fails if ill or rng.random() < 0.01 else self._works
                offer(pool.submit, work, rng.uniform(0.02, 0.09))
                if self._over.wait(0.05):
                    return

    def _reports(self, rng: random.Random) -> None:
        pool = self._pool("report_builder", 3, queue_capacity=16, slow_after=0.4, hung_after=3.0)
        while not self._over.is_set():
            for beat in self._beats(0.25):
                offer(pool.submit, self._works, rng.lognormvariate(-1.2, 0.6))
                if beat == 20:
                    offer(pool.submit, self._works, 7.0)
                if beat % 20 == 10:
                    offer(pool.submit, self._panics)
                if self._over.wait(0.25):
                    return

    def _imports(self, rng: random.Random) -> None:
        # Not at the same time in every instance.
        while not self._over.wait(rng.uniform(0.0, 2.0)):
            pool = self._pool("nightly_import", 2, queue_capacity=200)
            # One by one: what is there at a pool's first scrape is no increase.
            for _ in range(round(ROUND / 2 / 0.05)):
                offer(pool.submit, self._works, rng.uniform(0.08, 0.24))
                if self._over.wait(0.05):
                    return
            pool.stop(0.1)
            self._over.wait(ROUND / 5)


def offer(submit: Callable[..., Any], *task: Any) -> Any:
    """Submit, and have refusals counted by the pool alone."""
    try:
        return submit(*task)
    except (RejectedError, TaskExpiredError):
        return None


def main() -> None:
    """Serve until SIGTERM."""
    # Waited for rather than handled, in this thread alone: a handler that sets an event may be on top of the
    # wait for it and hold its lock.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    service = Service(int(sys.argv[1]))
    server, thread = start_http_server(port=0, addr=LOOPBACK)
    service.start()
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    service.stop()
    server.shutdown()
    server.server_close()
    thread.join()


if __name__ == "__main__":
    main()
