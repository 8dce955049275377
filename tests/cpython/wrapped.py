"""What CPython's tests get for ``ThreadPoolExecutor``: the stdlib's own, wrapped in a pool.

The scripts that those tests run in child processes import this file by its bare name, so it uses
nothing of the package around it.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool

# Attributes of the stdlib class that its tests read to see its threads. Lending those of the wrapped
# executor lets such cases run unchanged, instead of leaving them out.
LENT = frozenset({"_threads", "_max_workers", "_broken"})

_numbers = itertools.count(1)


class ThreadPoolExecutor(InstrumentedPool):
    """A pool around a stdlib executor, built with that executor's own arguments."""

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self._lender = futures.ThreadPoolExecutor(max_workers, thread_name_prefix, initializer, initargs)
        super().__init__(
            self._lender,
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


def sleep_and_print(seconds: float, message: str) -> None:
    """Stand in for the suite's function of this name, whose import would load the whole suite."""
    time.sleep(seconds)
    sys.stdout.write(f"{message}\n")
    sys.stdout.flush()
