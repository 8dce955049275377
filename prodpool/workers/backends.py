"""Which backends are known, and how one is told from another."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

from prodpool.text import short_name, shown, type_name
from prodpool.workers.base import Capabilities
from prodpool.workers.threads.daemon_executor import DaemonThreadExecutor


def is_unstarted(backend: Any) -> bool:
    """Tell whether a backend is known to have no thread yet, so that it works in a forked child."""
    if isinstance(backend, ThreadPoolExecutor):
        return not backend._threads  # noqa: SLF001  # private (D28; guarded by a test)
    if isinstance(backend, ProcessPoolExecutor):
        private: Any = backend
        return private._executor_manager_thread is None  # noqa: SLF001  # likewise
    return False


# Long, since it has a case for every kind.
def detect_backend(backend: Any, *, own: bool = True) -> Capabilities:
    """Look at ``backend``; ``own``: the pool alone uses it.

    Nothing is imported to tell: an object of an optional package can only be there if that is.

    Raises:
        TypeError: It has no ``submit`` to hand tasks to.
        ValueError: It is set up in a way that is known to deadlock.
    """
    if isinstance(backend, DaemonThreadExecutor):
        return Capabilities(kind="threads", max_workers=None, leased=True, holds_up_exit=False, linger=10.0)
    bases = {f"{base.__module__}.{base.__qualname__}" for base in type(backend).__mro__}
    if isinstance(backend, ThreadPoolExecutor) and _has_its_submit(backend, bases):
        return Capabilities(
            kind="ThreadPoolExecutor",
            # Private, but the only place where the size is said (docs/decisions, D3; guarded by a test).
            max_workers=backend._max_workers,  # noqa: SLF001
            leased=True,
            holds_up_exit=True,
            linger=1.0,
        )
    if isinstance(backend, type):
        fits = (
            short_name(backend.__name__)
            if callable(getattr(backend, "submit", None))
            else "ThreadPoolExecutor"
        )
        raise TypeError(
            f"backend={shown(backend)} is a class: pass an executor, such as {fits}(max_workers=8)"
        )
    if not callable(getattr(backend, "submit", None)):
        # A view of ipyparallel has one.
        its = callable(getattr(getattr(backend, "executor", None), "submit", None))
        fits = "its .executor, which has" if its else "a concurrent.futures.ThreadPoolExecutor"
        raise TypeError(f"backend={shown(backend)} has no submit(): pass {fits}")
    if isinstance(backend, ProcessPoolExecutor):
        from prodpool.workers.process_pools import of_process_pool  # noqa: PLC0415

        return of_process_pool(backend, own=own)
    if "loky.process_executor.ProcessPoolExecutor" in bases:
        from prodpool.workers.process_pools import of_loky  # noqa: PLC0415

        return of_loky(backend, own=own)
    if "distributed.client.Client" in bases:
        raise TypeError(f"backend={shown(backend)} is a dask client: pass its get_executor()")
    if "distributed.cfexecutor.ClientExecutor" in bases:
        from prodpool.workers.handoff.dask import of_dask  # noqa: PLC0415

        return of_dask(backend)
    size = getattr(backend, "_max_workers", None) if isinstance(backend, ThreadPoolExecutor) else None
    # CPython joins its threads, if it has any in this process.
    return Capabilities(kind=type_name(backend), max_workers=size, leased=False, holds_up_exit=True)


def _has_its_submit(backend: ThreadPoolExecutor, bases: Collection[str]) -> bool:
    """Tell whether what is submitted runs as it stands in a thread of ``backend``, so that a loop may."""
    if "concurrent.futures.interpreter.InterpreterPoolExecutor" in bases:  # CPython 3.14
        return False
    # Not which function it is: OpenTelemetry's ThreadingInstrumentor and others put a wrapper in its place.
    return next(base for base in type(backend).__mro__ if "submit" in vars(base)) is ThreadPoolExecutor
