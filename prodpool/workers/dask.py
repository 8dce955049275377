"""What a dask cluster can do, and how a call is handed over to one.

dask runs a task again, silently, when its worker dies, up to ``allowed-failures`` times. For tasks that
must not run twice unless they say so, a plugin on the scheduler has the first death end the task instead;
the pool then decides.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any

import cloudpickle
from distributed import Client, KilledWorker, SchedulerPlugin
from distributed.cfexecutor import ClientExecutor

from prodpool.workers.base import Capabilities

# What the keys of our tasks begin with; the plugin knows them by it.
KEY = "prodpool-"


def of_dask(backend: Any) -> Capabilities:
    """Return what the executor of a ``distributed.Client`` can do, and prepare its scheduler."""
    client: Any = backend._client  # noqa: SLF001  # D15; guarded by tests/backends/test_private_names.py
    client.register_plugin(_plugin(KEY), name="prodpool")
    # 0 for a cluster that has yet to grow: then the size has to be given.
    threads = sum(client.nthreads().values()) or None
    return Capabilities(
        kind="dask",
        max_workers=threads,
        leased=False,
        holds_up_exit=False,
        # A round trip through the scheduler takes milliseconds; a worker should have something to do in them.
        prefetch=2 * threads if threads else 1,
        dumps=cloudpickle.dumps,
        submit=_submit,
        lost=(KilledWorker,),
    )


class OwnClient(Client):
    """A client of the pool's own."""

    def __init__(self, target: Any) -> None:
        try:
            super().__init__(target, set_as_default=False)  # type: ignore[no-untyped-call]
        except BaseException:
            # Neither this object nor a way to close it gets out: its thread would stay (D15).
            with suppress(AttributeError):
                self._loop_runner.stop()
            raise


class OwnExecutor(ClientExecutor):
    """An executor with a client of its own, which ends with it; the cluster does not."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Give up what still runs, or wait for it, and close the client."""
        super().shutdown(wait=wait)  # type: ignore[no-untyped-call]
        self._client.close()


def connect(target: Any) -> OwnExecutor:
    """Return an executor for the cluster at an address, or the one that an object stands for.

    Raises:
        OSError: Nothing answers there.
    """
    return OwnExecutor(OwnClient(target))  # type: ignore[no-untyped-call]


def _submit(backend: Any, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    """Hand a call over as the executor's own ``submit`` does, with a future that always gets an outcome.

    What cascades the outcome there lets one exception of its own go astray: a worker that dies with a result
    nobody has fetched yet ends the task in the midst of the fetching, and the future waits for ever (D16).
    """
    if backend._shutdown:  # noqa: SLF001  # these three: D15; guarded by tests/backends/test_private_names.py
        raise RuntimeError("cannot schedule new futures after shutdown")
    client: Any = backend._client  # noqa: SLF001
    # A key of its own: equal calls are one to dask otherwise.
    future = client.submit(fn, *args, **{**backend._kwargs, "key": f"{KEY}{uuid.uuid4().hex}"})  # noqa: SLF001
    backend._futures.add(future)  # noqa: SLF001  # what a shutdown gives up
    lease: Future[Any] = Future()
    client.loop.add_callback(_bring_home, future, lease)
    return lease


async def _bring_home(future: Any, lease: Future[Any]) -> None:
    try:
        value = await future.client.gather(future, asynchronous=True)
    except (CancelledError, asyncio.CancelledError, GeneratorExit) as error:  # the last: its loop has ended
        lease.cancel()
        lease.set_running_or_notify_cancel()
        if isinstance(error, GeneratorExit):
            raise
    except BaseException as error:  # noqa: BLE001  # it belongs to whoever handed the call over
        lease.set_exception(error)
    else:
        lease.set_result(value)


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
