"""What a dask cluster can do, and how a call is handed over to one.

dask runs a task again, silently, when its worker dies, up to ``allowed-failures`` times. For tasks that
must not run twice unless they say so, a plugin on the scheduler has the first death end the task instead;
the pool then decides.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from contextlib import suppress
from typing import Any, NamedTuple

import cloudpickle
from distributed import Client, KilledWorker, SchedulerPlugin
from distributed.cfexecutor import ClientExecutor

from prodpool.workers.base import Capabilities, NotTakenError

# What the keys of our tasks begin with; the plugin knows them by it.
KEY = "prodpool-"
# Seconds that calls are collected while others are under way, and bytes from which on they are not. dask
# waits as long before it sends them, and complains about graphs of 10 MB.
_BATCH_WINDOW = 0.002
_MAX_BATCH_BYTES = 1 << 20


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
        submit=BatchSubmitter().submit,
        worker_lost_errors=(KilledWorker, CancelledThereError),
        lost_worker=_lost_worker,
    )


def _lost_worker(error: BaseException) -> str | None:
    """Return which worker of the cluster has died, where that is why a call has failed."""
    # Not its address, which the next worker may get.
    # The error came over the network, from a scheduler of any version.
    worker = getattr(error, "last_worker", None) if isinstance(error, KilledWorker) else None
    return None if worker is None else str(getattr(worker, "server_id", worker))


class CancelledThereError(Exception):
    """A call was cancelled on the cluster, which goes on: by ``Client.restart``, or by another client."""

    def __init__(self) -> None:
        super().__init__("the cluster has cancelled it, as it does when its workers are restarted")


class OwnedClient(Client):
    """A client of the pool's own."""

    def __init__(self, target: Any) -> None:
        try:
            super().__init__(target, set_as_default=False)  # type: ignore[no-untyped-call]
        except BaseException:
            # Neither this object nor a way to close it gets out: its thread would stay (D15).
            with suppress(AttributeError):
                self._loop_runner.stop()
            raise


class OwnedExecutor(ClientExecutor):
    """An executor with a client of its own, which ends with it; the cluster does not."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Cancel the running calls, or wait for them, and close the client."""
        super().shutdown(wait=wait)  # type: ignore[no-untyped-call]
        self._client.close()


def connect(target: Any) -> OwnedExecutor:
    """Return an executor for the cluster at an address, or the one that an object stands for.

    Raises:
        OSError: Nothing answers there.
    """
    return OwnedExecutor(OwnedClient(target))  # type: ignore[no-untyped-call]


_WHY_NOT_RUNNING = "the scheduler has gone, or the client was closed"


class _Call(NamedTuple):
    backend: Any
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    future: Future[Any]

    def size(self) -> int:
        return sum(len(arg) for arg in self.args if isinstance(arg, bytes))


class BatchSubmitter:
    """Hands calls over as the executor's own ``submit`` does, but several at a time, as tasks of one graph.

    Each graph costs the scheduler's loop time of its own. And what cascades the outcome in the executor lets
    one exception of its own go astray: a worker that dies with a result that is not fetched yet ends the task
    in the midst of the fetching, and the future waits for ever (D16).
    """

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        # The executor in whose client's loop they are collected at the moment.
        self._collecting: Any = None

    def submit(self, backend: Any, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Hand a call over to an executor, and return a future that always gets an outcome.

        Raises:
            RuntimeError: The executor, or its client, is closed.
        """
        _check_open(backend)
        call = _Call(backend, fn, args, Future())
        self._calls.append(call)
        # For each of them, so that none is forgotten when an interrupt comes between these two.
        backend._client.loop.add_callback(self._collect, backend)  # noqa: SLF001  # these: D15, guarded by
        return call.future  # tests/backends/test_private_names.py

    # In the loop of the client.

    def _collect(self, backend: Any) -> Awaitable[None] | None:
        return self._send(backend) if self._calls and self._collecting is not backend else None

    async def _send(self, backend: Any) -> None:
        if self._collecting is backend:
            return
        self._collecting = backend
        try:
            if backend._futures:  # noqa: SLF001  # its workers have something to do meanwhile
                await asyncio.sleep(_BATCH_WINDOW)
        except BaseException:  # GeneratorExit: the loop has ended
            _fail_all(self._take_all(), RuntimeError("the client's loop has ended"))
            raise
        finally:
            self._collecting = None
        calls = self._take_all()
        while calls:
            first, size = calls[0], 0
            batch: list[_Call] = []
            while (
                calls
                and calls[0].backend is first.backend
                and calls[0].fn is first.fn
                and size < _MAX_BATCH_BYTES
            ):
                size += calls[0].size()
                batch.append(calls.popleft())
            _submit_batch(first.backend, batch)

    def _take_all(self) -> deque[_Call]:
        calls: deque[_Call] = deque()
        with suppress(IndexError):
            while True:
                calls.append(self._calls.popleft())
        return calls


def _check_open(executor: Any) -> None:
    if executor._shutdown or executor._client.status in {"closing", "closed"}:  # noqa: SLF001
        raise RuntimeError("cannot schedule new futures after shutdown")


def _submit_batch(executor: Any, calls: Sequence[_Call]) -> None:
    """Hand calls of one function over."""
    # Keys of their own: equal calls are one to dask otherwise.
    named = {**executor._kwargs, "key": [f"{KEY}{uuid.uuid4().hex}" for _ in calls]}  # noqa: SLF001
    try:
        _check_open(executor)
        client = executor._client  # noqa: SLF001
        futures = client.map(calls[0].fn, *zip(*(call.args for call in calls), strict=True), **named)
    except Exception as error:  # noqa: BLE001  # closed meanwhile
        _fail_all(calls, error)
        return
    executor._futures.update(futures)  # noqa: SLF001  # what a shutdown gives up
    for dask_future, call in zip(futures, calls, strict=True):
        dask_future.client.loop.add_callback(_fetch_result, dask_future, call.future)


def _fail_all(calls: Iterable[_Call], error: BaseException) -> None:
    for call in calls:
        call.future.set_exception(NotTakenError(error))


async def _fetch_result(dask_future: Any, future: Future[Any]) -> None:
    try:
        value = await dask_future.client.gather(dask_future, asynchronous=True)
    except GeneratorExit:  # its loop has ended
        _cancel(future)
        raise
    except (CancelledError, asyncio.CancelledError):
        if dask_future.client.status == "running":
            future.set_exception(CancelledThereError())
        else:
            future.set_exception(
                BrokenExecutor(f"its dask client is {dask_future.client.status}: {_WHY_NOT_RUNNING}")
            )
    except BaseException as error:  # noqa: BLE001  # it belongs to the future of the call
        future.set_exception(error)
    else:
        future.set_result(value)


def _cancel(future: Future[Any]) -> None:
    future.cancel()
    future.set_running_or_notify_cancel()


def _plugin(key: str) -> SchedulerPlugin:
    # A class made here travels by value, so that the scheduler need not have prodpool installed.
    class NoRerunPlugin(SchedulerPlugin):
        """Has the death of a worker end the tasks of ours that it had, rather than run them elsewhere."""

        idempotent = True

        async def start(self, scheduler: Any) -> None:
            self.scheduler = scheduler

        def update_graph(self, scheduler: Any, *, keys: Any, **_: Any) -> None:
            for each in keys:
                if str(each).startswith(key):
                    scheduler.tasks[each].suspicious = scheduler.allowed_failures

    return NoRerunPlugin()
