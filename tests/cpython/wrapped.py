"""What CPython's tests get for the stdlib's executors: these very executors, each wrapped in a pool.

The scripts that those tests run in child processes import this file by its bare name, so it uses
nothing of the package around it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool

# Attributes of the stdlib classes that their tests read to see threads and processes. Lending those of the
# wrapped executor, or what takes their place over processes, lets such cases run unchanged, instead of
# leaving them out.
LENT = frozenset(
    {
        "_broken",
        "_call_queue",
        "_executor_manager_thread",
        "_max_workers",
        "_mp_context",
        "_processes",
        "_threads",
    }
)

_numbers = itertools.count(1)


class _Wrapped(InstrumentedPool):
    """A pool around a stdlib executor."""

    def __init__(self, lender: futures.Executor) -> None:
        self._lender = lender
        super().__init__(
            lender,
            name=f"cpython_{next(_numbers)}",
            # The stdlib's queue has no bound, and its tests fill it.
            queue_capacity=10_000,
            drain_deadline=30.0,
            registry=CollectorRegistry(),
        )

    def __getattr__(self, name: str) -> Any:
        if name in LENT:
            return getattr(self._lender, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


class ThreadPoolExecutor(_Wrapped):
    """A pool of threads, built with the arguments of the stdlib's."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        super().__init__(futures.ThreadPoolExecutor(max_workers, thread_name_prefix, initializer, initargs))


class ProcessPoolExecutor(_Wrapped):
    """A pool of processes, built with the arguments of the stdlib's."""

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        super().__init__(
            futures.ProcessPoolExecutor(
                max_workers, mp_context, initializer, initargs, max_tasks_per_child=max_tasks_per_child
            )
        )

    def __getattr__(self, name: str) -> Any:
        # What the executor starts itself is nothing: it is a recipe.
        if name == "_processes":
            return _Processes(self._engine.workers)
        if name == "_executor_manager_thread":
            return _Threads(self._engine.workers.owned_threads_or_processes())
        if name == "_call_queue":
            return _closed_queue()
        if name == "_broken":
            return self._engine.closing.broken is not None
        return super().__getattr__(name)


def _closed_queue() -> Any:
    """Return what is left of a queue that nobody has used."""
    queue: Any = multiprocessing.Queue()
    queue.close()
    queue.join_thread()
    return queue


class _Processes(dict[int, Any]):
    """The worker processes that there are now, by their pids."""

    def __init__(self, workers: Any) -> None:
        super().__init__(
            {each.pid: each for each in workers.owned_threads_or_processes() if hasattr(each, "pid")}
        )


class _Threads:
    """The threads of the worker processes, as one."""

    def __init__(self, held: Sequence[Any]) -> None:
        self._held = held

    def join(self) -> None:
        """Wait until all of them have ended."""
        for each in self._held:
            each.join()


def sleep_and_print(seconds: float, message: str) -> None:
    """Stand in for the suite's function of this name, whose import would load the whole suite."""
    time.sleep(seconds)
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
