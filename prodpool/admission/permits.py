"""Permits: what a task needs to be admitted, beside a slot.

A task takes one permit from each source of its pool and holds them until it is settled. A breaker is such a
source. Another kind of limit is a class with these methods and one more entry in the engine's list.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias


class PermitSource(Protocol):
    """Something that may refuse a task."""

    shared: bool
    """Whether the application holds it too, so that a call of it may hang."""

    def acquire(self) -> Any:
        """Return a permit.

        Raises:
            RejectedError: The task must not come in; its ``reason`` is counted.
        """

    def release(self, permit: Any) -> None:
        """Take back a permit whose task did not run; a second time is harmless."""

    def record(self, permit: Any, exception: BaseException | None, duration: float) -> None:
        """Take back a permit whose task ran for ``duration`` seconds and raised ``exception``."""

    def success_may_hang(self, permit: Any) -> bool:
        """Tell whether `record` of a success may have to wait for the application."""
        ...


Permits: TypeAlias = tuple[tuple[PermitSource, Any], ...]


def acquire_all(sources: Iterable[PermitSource]) -> Permits:
    """Take one permit from each source.

    Raises:
        RejectedError: A source refuses; what was taken from the others is given back.
    """
    held: Permits = ()
    try:
        for source in sources:
            held = (*held, (source, source.acquire()))
    except BaseException:
        release_all(held)
        raise
    return held


def release_all(permits: Permits) -> None:
    """Give back the permits of a task that did not run."""
    for source, permit in permits:
        source.release(permit)


def success_may_hang(permits: Permits) -> bool:
    """Tell whether reporting a success to the sources may have to wait for the application."""
    return any(source.shared and source.success_may_hang(permit) for source, permit in permits)
