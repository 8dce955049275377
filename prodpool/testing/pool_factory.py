"""Pools for one test: built with a registry of their own, stopped at its end, and looked at for leaks."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

from prometheus_client.registry import CollectorRegistry

from prodpool.config.settings import OnHangExit
from prodpool.factories import HandoffOptions
from prodpool.pool import InstrumentedPool
from prodpool.scheduling.worker import stack_of_thread
from prodpool.shutdown.report import StopReport
from prodpool.workers.base import Joinable, SupportsSubmit
from prodpool.workers.handoff.rebuildable_backend import BackendFactory

# Of a pool for which nothing else was said.
MAX_WORKERS = 2
DRAIN_DEADLINE = 5.0
# Seconds that what a stopped pool has owned may take to end, on a machine that has other things to do.
GRACE = 5.0
_REMEDY = "Have the test end what it began, or build the pool with check_leaks=False."


class InstrumentedPoolOptions(HandoffOptions, total=False):
    """The options of `prodpool.InstrumentedPool` that a `PoolFactory` passes on."""

    name: str
    max_workers: int | None
    own_backend: bool
    on_hang_exit: OnHangExit


class PoolFactory:
    """Builds pools for one test, and stops them. It is what the fixture ``instrumented_pool`` returns.

    Attributes:
        registry: The Prometheus registry of the pools, in which there is nothing else.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        self._pools: list[tuple[InstrumentedPool, bool]] = []
        self._numbers = itertools.count(1)
        self._before = set(threading.enumerate())

    def __call__(
        self,
        backend: SupportsSubmit | BackendFactory | None = None,
        *,
        check_leaks: bool = True,
        **options: Unpack[InstrumentedPoolOptions],
    ) -> InstrumentedPool:
        """Build a pool.

        Args:
            backend: As for `prodpool.InstrumentedPool`; None for a ``ThreadPoolExecutor`` of two threads.
            check_leaks: Whether the test fails if something of the pool is left when it has been stopped.
            options: As for `prodpool.InstrumentedPool`. Without them ``name`` is "test", "test_2" and so on,
                ``drain_deadline`` 5 seconds, and ``registry`` that of this object.

        Raises:
            TypeError, ValueError: As from `prodpool.InstrumentedPool`.
        """
        number = next(self._numbers)
        options.setdefault("name", "test" if number == 1 else f"test_{number}")
        options.setdefault("drain_deadline", DRAIN_DEADLINE)
        options.setdefault("registry", self.registry)
        if backend is None:
            backend = ThreadPoolExecutor(options.get("max_workers") or MAX_WORKERS)
        pool = InstrumentedPool(backend, **options)
        self._pools.append((pool, check_leaks))
        return pool

    def stop_all(self) -> list[str]:
        """Stop the pools and export them no more; return what each of them has left behind, as text.

        Tasks that its stop has dropped or abandoned, with their stacks, and threads or processes of the pool
        that have not ended. Nothing is told of a pool that was built with ``check_leaks=False``.
        """
        leaks: list[str] = []
        for pool, check_leaks in self._pools:
            # By now, or they could no longer be told from those of others.
            owned = pool._engine.workers.owned_threads_or_processes()  # noqa: SLF001  # no public word for it
            report = pool.stop()
            if check_leaks:
                leaks += self._leaks_of(pool, report, owned)
            pool.close_metrics()
        self._pools.clear()
        return [*leaks, _REMEDY] if leaks else []

    def _leaks_of(self, pool: InstrumentedPool, report: StopReport, owned: Sequence[Joinable]) -> list[str]:
        if not report.drained:
            parts = [f"{report.dropped} queued tasks were dropped"] if report.dropped else []
            parts += [f"still running: {', '.join(report.abandoned)}"] if report.abandoned else []
            what = "; ".join(parts) or "it still goes on"
            return [
                f"pool {pool.name!r} was not drained when it stopped after {report.elapsed:.3g} s: {what}",
                pool.dump(),
            ]
        ours = [*owned, *(thread for thread in threading.enumerate() if self._is_of(pool, thread))]
        ends = time.monotonic() + GRACE
        for each in ours:
            each.join(max(0.0, ends - time.monotonic()))
        return [f"pool {pool.name!r} was stopped, and {_described(each)}" for each in ours if each.is_alive()]

    def _is_of(self, pool: InstrumentedPool, thread: threading.Thread) -> bool:
        ours = re.fullmatch(rf"prodpool-(await-stop|[a-z]+)-{re.escape(pool.name)}", thread.name)
        return ours is not None and thread not in self._before and thread is not threading.current_thread()


def _described(each: Any) -> str:
    if isinstance(each, threading.Thread):
        return f"its thread {each.name!r} still runs:\n{stack_of_thread(each.ident)}"
    return f"its process {each.pid} still runs"
