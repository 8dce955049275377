"""What can be known of a backend before it is used, and the interfaces to put it to work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from prodpool.workers.daemon import DaemonThreadExecutor
from prodpool.workers.packing import Dumps, standard_dumps


class Submits(Protocol):
    """What `InstrumentedPool` takes as a backend: an executor, or whatever else has its ``submit``."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn`` somewhere and return its future."""


class Backend(Submits, Protocol):
    """What the pool asks of an executor that it also ends."""

    def shutdown(self, wait: bool = True) -> None:
        """Take no more work; with ``wait``, return once it has ended."""


class Joinable(Protocol):
    """A thread or a process."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


class Workers(Protocol):
    """A backend put to work for one pool."""

    def start(self) -> bool:
        """Add one more worker; False when there are enough."""
        ...

    def look(self) -> None:
        """Bring up to date what is known of running tasks."""

    def holding(self) -> Sequence[Joinable]:
        """Return what should have ended when the backend has."""
        ...

    def kill(self) -> bool:
        """Kill what hangs; False if nothing can be killed."""
        ...

    def shutdown(self) -> None:
        """Have the backend take no more work, and do not wait for it."""

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        ...

    def close(self) -> None:
        """Let go of everything; called once no task is left."""


def _no_processes(_: Any) -> list[Any]:
    return []


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        kind: Word for it in metrics and logs.
        max_workers: Tasks it can run at once; None where it does not say.
        leased: Whether it lends its threads for long, rather than being handed one task at a time.
        holds_up_exit: Whether a task that never ends keeps the process from ending.
        linger: Seconds that an idle loop keeps its thread before giving it back.
        prefetch: Tasks handed over beyond what it can run, so that no worker waits for the next.
        same_host: Whether its workers see this host's files and clock.
        dumps: How calls are pickled for it; None if it is left to carry them as it sees fit.
        processes: Returns its worker processes, which can be killed.
    """

    kind: str
    max_workers: int | None
    leased: bool
    holds_up_exit: bool
    linger: float = 0.0
    prefetch: int = 0
    same_host: bool = False
    dumps: Dumps | None = None
    processes: Callable[[Any], list[Any]] = _no_processes


def capabilities(backend: object) -> Capabilities:
    """Look at ``backend``.

    Raises:
        TypeError: It has no ``submit`` to hand tasks to.
    """
    if isinstance(backend, DaemonThreadExecutor):
        return Capabilities(kind="threads", max_workers=None, leased=True, holds_up_exit=False, linger=10.0)
    if isinstance(backend, ThreadPoolExecutor) and type(backend).submit is ThreadPoolExecutor.submit:
        return Capabilities(
            kind="ThreadPoolExecutor",
            # Private, but the only place where the size is said (docs/decisions.md, D3; guarded by a test).
            max_workers=backend._max_workers,  # noqa: SLF001
            leased=True,
            holds_up_exit=True,
            linger=1.0,
        )
    if isinstance(backend, type):
        fits = backend.__name__ if callable(getattr(backend, "submit", None)) else "ThreadPoolExecutor"
        raise TypeError(f"backend={backend!r} is a class: pass an executor, such as {fits}(max_workers=8)")
    if not callable(getattr(backend, "submit", None)):
        raise TypeError(f"backend={backend!r} has no submit(): pass a concurrent.futures.ThreadPoolExecutor")
    if isinstance(backend, ProcessPoolExecutor):
        return Capabilities(
            kind="ProcessPoolExecutor",
            max_workers=backend._max_workers,  # type: ignore[attr-defined]  # noqa: SLF001  # as above
            leased=False,
            holds_up_exit=False,
            prefetch=1,
            same_host=True,
            dumps=standard_dumps,
            processes=_processes_of,
        )
    return Capabilities(kind=type(backend).__name__, max_workers=None, leased=False, holds_up_exit=False)


def _processes_of(backend: Any) -> list[Any]:
    # Private; killing is public from 3.14 on, and nothing else finds the processes (D14, guarded by a test).
    return list((backend._processes or {}).values())  # noqa: SLF001
