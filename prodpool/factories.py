"""Ready-made pools, for services that have no executor yet."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pybreaker
from opentelemetry.trace import TracerProvider
from prometheus_client.registry import CollectorRegistry

from prodpool.admission.breaker.policy import BreakerPolicy
from prodpool.concurrency.clock import Clock
from prodpool.config.around import Around
from prodpool.config.processors import usable_processors
from prodpool.config.settings import Overload, TaskContext, check_choice, check_name, pool_size_from
from prodpool.pool import InstrumentedPool
from prodpool.workers.backends import detect_backend
from prodpool.workers.threads.daemon_executor import DaemonThreadExecutor


class PoolOptions(TypedDict, total=False):
    """The options that `threads`, `processes` and `dask` pass on to `InstrumentedPool`.

    Annotate a function of yours that passes them on, too: ``**options: Unpack[PoolOptions]``.
    """

    queue_capacity: int | None
    overload: Overload
    slow_after: float
    hung_after: float
    drain_deadline: float
    breaker: BreakerPolicy | pybreaker.CircuitBreaker | None
    registry: CollectorRegistry | None
    tracer_provider: TracerProvider | None
    logger: Any
    buckets: Sequence[float] | None
    clock: Clock | None
    context_vars: Sequence[str]
    context: TaskContext
    around: Around | None
    log_levels: Mapping[str, str] | None
    task_metrics: Sequence[str] | None


class HandoffOptions(PoolOptions, total=False):
    """The options that `processes` and `dask` pass on: `PoolOptions` and one more."""

    prefetch: int | None


def threads(*, name: str, max_workers: int | None = None, **options: Unpack[PoolOptions]) -> InstrumentedPool:
    """Return a pool on daemon threads of its own, which never hold up the interpreter's exit.

    Args:
        name: As for `InstrumentedPool`; the threads bear it too.
        max_workers: None for what the environment variable WORKER_POOL_SIZE says, 50 if it is not set.
        options: As for `InstrumentedPool`.

    Raises:
        ValueError: WORKER_POOL_SIZE is malformed, or any argument is wrong.
    """
    size = pool_size_from() if max_workers is None else max_workers
    check_name(name)
    return InstrumentedPool(lambda _: DaemonThreadExecutor(name), name=name, max_workers=size, **options)


def processes(
    *,
    name: str,
    max_workers: int | None = None,
    start_method: str | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
    **options: Unpack[HandoffOptions],
) -> InstrumentedPool:
    """Return a pool on worker processes of its own, which are replaced when one is lost.

    Args:
        name: As for `InstrumentedPool`.
        max_workers: None for as many processors as this process may use, by its affinity and its cgroup.
        start_method: One of multiprocessing's; None for ``"forkserver"``, or ``"spawn"`` where there is none,
            or no folder for temporary files in which it could listen. In a forked child of a process
            that has a fork server, ``"spawn"`` takes the place of ``"forkserver"``.
            ``"fork"`` copies a process that has threads, which may deadlock in the copy.
        initializer: Called in each worker process before its first task.
        initargs: Its arguments.
        options: As for `InstrumentedPool`.

    Raises:
        ValueError: Any argument is wrong.
    """
    methods = multiprocessing.get_all_start_methods()
    if start_method is None:
        start_method = "forkserver" if "forkserver" in methods and _can_listen() else "spawn"
    context = multiprocessing.get_context(check_choice("start_method", start_method, tuple(methods)))

    def build(workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initargs)

    size = max_workers if max_workers is not None else usable_processors()
    return InstrumentedPool(build, name=name, max_workers=size, **options)


def _can_listen() -> bool:
    """Tell whether there is a folder for temporary files in which a fork server could bind its socket."""
    try:
        with tempfile.TemporaryDirectory(prefix="pymp-") as folder, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(Path(folder, "listener-12345678")))
    except OSError:
        return False
    return True


def _known(size: int | None, target: object) -> int:
    if size is None:
        raise ValueError(f"target={target!r} has no workers yet: start some, or pass max_workers")
    return size


def dask(
    target: Any, *, name: str, max_workers: int | None = None, **options: Unpack[HandoffOptions]
) -> InstrumentedPool:
    """Return a pool over a dask cluster. Stopping it closes its connection and leaves the cluster alone.

    Args:
        target: The scheduler's address, such as ``"tcp://scheduler:8786"``, or a cluster object. For a
            ``distributed.Client`` use ``InstrumentedPool(client.get_executor(), ...)``.
        name: As for `InstrumentedPool`.
        max_workers: None for as many as the cluster has threads now.
        options: As for `InstrumentedPool`.

    Raises:
        ImportError: The extra ``dask`` is not installed.
        OSError: Nothing answers at that address.
        ValueError: Any argument is wrong, or the cluster has no workers yet and ``max_workers`` is not given.
    """
    try:
        from prodpool.workers.handoff.dask import connect  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(f"prodpool.dask needs {error.name}: pip install 'prodpool[dask]'") from error
    first = connect(target)
    unused = [first]

    def build(_: int) -> Any:
        return unused.pop() if unused else connect(target)

    try:
        size = detect_backend(first).max_workers if max_workers is None else max_workers
        return InstrumentedPool(build, name=name, max_workers=_known(size, target), **options)
    except BaseException:
        first.shutdown(wait=False)
        raise
