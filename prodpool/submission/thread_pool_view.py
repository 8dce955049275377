"""A pool in the guise of a `ThreadPoolExecutor`, for code that accepts nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPoolView(ThreadPoolExecutor):
    """Hands everything to its pool, and never has a thread of its own."""

    def __init__(self, pool: Executor, max_workers: int) -> None:
        super().__init__(max_workers)
        self._pool = pool

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit to the pool."""
        return self._pool.submit(fn, *args, **kwargs)

    def map(self, fn: Callable[..., T], *iterables: Iterable[Any], **options: Any) -> Iterator[T]:
        """Map over the pool."""
        return self._pool.map(fn, *iterables, **options)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut the pool down: the code that this was handed to takes it for its own."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool!r}>"
