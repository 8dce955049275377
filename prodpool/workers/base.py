"""What can be known of a backend before it is used, and the one interface to put it to work."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from prodpool.workers.daemon import DaemonThreadExecutor


class Backend(Protocol):
    """What the pool asks of an executor whose threads it leases."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn`` in a thread and return its future."""

    def shutdown(self, wait: bool = True) -> None:
        """Take no more work; with ``wait``, return once the threads have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        kind: Word for it in metrics and logs.
        max_workers: Tasks it can run at once; None where it does not say.
        growable: Whether the pool may be resized beyond that.
        holds_up_exit: Whether a task that never ends keeps the process from ending.
        linger: Seconds that an idle loop keeps its thread before giving it back.
    """

    kind: str
    max_workers: int | None
    growable: bool
    holds_up_exit: bool
    linger: float


def capabilities(backend: object) -> Capabilities:
    """Look at ``backend``.

    Raises:
        TypeError: It is no executor whose threads can be leased.
    """
    if isinstance(backend, DaemonThreadExecutor):
        return Capabilities(kind="threads", max_workers=None, growable=True, holds_up_exit=False, linger=10.0)
    if isinstance(backend, ThreadPoolExecutor) and type(backend).submit is ThreadPoolExecutor.submit:
        return Capabilities(
            kind="ThreadPoolExecutor",
            # Private, but the only place where the size is said (docs/decisions.md, D3; guarded by a test).
            max_workers=backend._max_workers,  # noqa: SLF001
            growable=False,
            holds_up_exit=True,
            linger=1.0,
        )
    if isinstance(backend, type):
        fits = backend if issubclass(backend, ThreadPoolExecutor) else ThreadPoolExecutor
        raise TypeError(
            f"backend={backend!r} is a class: pass an executor, such as {fits.__name__}(max_workers=8)"
        )
    if not callable(getattr(backend, "submit", None)):
        raise TypeError(f"backend={backend!r} has no submit(): pass a concurrent.futures.ThreadPoolExecutor")
    raise TypeError(
        f"backend={backend!r} is not supported by this version: pass a ThreadPoolExecutor "
        "(or a subclass that keeps its submit), or use prodpool.threads(...)"
    )
