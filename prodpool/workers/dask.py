"""What a dask cluster can do, and how a call is handed over to one.

dask runs a task again, silently, when its worker dies, up to ``allowed-failures`` times. For tasks that
must not run twice unless they say so, a plugin on the scheduler has the first death end the task instead;
the pool then decides.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from distributed import Client, KilledWorker, SchedulerPlugin

from prodpool.workers.base import Capabilities

# What the keys of our tasks begin with; the plugin knows them by it.
KEY = "prodpool-"


def of_dask(backend: Any) -> Capabilities:
    """Return what the executor of a ``distributed.Client`` can do, and prepare its scheduler."""
    client: Client = backend._client  # noqa: SLF001  # D15; guarded by tests/backends/test_private_names.py
    client.register_plugin(_plugin(KEY), name="prodpool")
    # 0 for a cluster that has yet to grow: then the size has to be given.
    threads = sum(client.nthreads().values()) or None  # type: ignore[no-untyped-call]
    return Capabilities(
        kind="dask",
        max_workers=threads,
        leased=False,
        holds_up_exit=False,
        # A round trip through the scheduler takes milliseconds; a worker should have something to do in them.
        prefetch=threads or 1,
        dumps=cloudpickle.dumps,
        submit=_submit,
        lost=(KilledWorker,),
    )


def _submit(backend: Any, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    # A key of its own: equal calls are one to dask otherwise.
    lease: Future[Any] = backend.submit(fn, *args, key=f"{KEY}{uuid.uuid4().hex}")
    return lease


def _plugin(key: str) -> SchedulerPlugin:
    # A class made here travels by value, so that the scheduler need not have prodpool installed.
    class OneDeathEnds(SchedulerPlugin):
        """Has the death of a worker end the tasks of ours that it had, rather than run them elsewhere."""

        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def update_graph(self, scheduler: Any, *, keys: Any, **_: Any) -> None:
            for each in keys:
                if str(each).startswith(key):
                    scheduler.tasks[each].suspicious = scheduler.allowed_failures

    return OneDeathEnds()
