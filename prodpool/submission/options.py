"""A pool seen with fixed options: ``pool.options(task="resize", deadline=5.0)``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

from prodpool.config.settings import check_flag, check_seconds
from prodpool.submission.lazy_map import lazy_map
from prodpool.submission.submitter import Submitter
from prodpool.task.future import PoolFuture
from prodpool.task.task import DEFAULT_OPTIONS, TaskOptions
from prodpool.text import LONGEST_NAME, shown

P = ParamSpec("P")
T = TypeVar("T")


def check_options(
    options: TaskOptions,
    *,
    task: str | None,
    deadline: float | None,
    wait: float | None,
    idempotent: bool | None,
    timeout: float | None,
) -> TaskOptions:
    """Return ``options`` with the given ones set.

    Raises:
        TypeError, ValueError: An option is wrong; the message names it, its value and what would do.
    """
    if task is not None:
        if not isinstance(task, str):
            raise TypeError(f"task={shown(task)} is no name: pass a short string, such as 'resize'")
        # It goes into log lines as it is: a line break in it would forge one.
        if not task or len(task) > LONGEST_NAME or not task.isprintable():
            raise ValueError(
                f"task={shown(task)} is no name: pass 1 to {LONGEST_NAME} printable characters, such as "
                "'resize'"
            )
        options = replace(options, task=task)
    if deadline is not None:
        options = replace(options, deadline=check_seconds("deadline", deadline, positive=True))
    if wait is not None:
        options = replace(options, wait=check_seconds("wait", wait))
    if idempotent is not None:
        options = replace(options, idempotent=check_flag("idempotent", idempotent))
    if timeout is not None:
        options = replace(options, timeout=check_seconds("timeout", timeout, positive=True))
    return options


class PoolLike(Protocol):
    """The type of an argument that may be an `InstrumentedPool` or a `PoolView`.

    It has the methods that both have, so that a function which only submits tasks takes either.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)``; see `InstrumentedPool.submit`."""
        ...

    def submit_wait(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)``, waiting for a slot; see `InstrumentedPool.submit_wait`."""
        ...

    async def submit_async(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Schedule ``fn(*args, **kwargs)``; see `InstrumentedPool.submit_async`."""
        ...

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` for each set of arguments; see `InstrumentedPool.map`."""
        ...

    def options(
        self,
        *,
        task: str | None = None,
        deadline: float | None = None,
        wait: float | None = None,
        idempotent: bool | None = None,
        timeout: float | None = None,
    ) -> PoolView:
        """Return a view with further options; see `InstrumentedPool.options`."""
        ...


class PoolView(Executor):
    """A light executor: it submits to its pool with its options. Making one costs next to nothing."""

    def __init__(self, pool: Executor, door: Submitter, options: TaskOptions = DEFAULT_OPTIONS) -> None:
        # Held so that the pool lives as long as its view.
        self._pool = pool
        self._door = door
        self._options = options

    def options(
        self,
        *,
        task: str | None = None,
        deadline: float | None = None,
        wait: float | None = None,
        idempotent: bool | None = None,
        timeout: float | None = None,
    ) -> PoolView:
        """Return a view with further options; see `InstrumentedPool.options`."""
        options = check_options(
            self._options,
            task=task,
            deadline=deadline,
            wait=wait,
            idempotent=idempotent,
            timeout=timeout,
        )
        return PoolView(self._pool, self._door, options)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)``; see `InstrumentedPool.submit`."""
        return self._door.submit(self._options, fn, args, kwargs)

    def submit_wait(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)``, waiting for a slot; see `InstrumentedPool.submit_wait`."""
        return self._door.submit_wait(self._options, fn, args, kwargs)

    async def submit_async(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Schedule ``fn(*args, **kwargs)``; see `InstrumentedPool.submit_async`."""
        future: PoolFuture[T] = await self._door.submit_async(self._options, fn, args, kwargs)
        return asyncio.wrap_future(future)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` for each set of arguments; see `InstrumentedPool.map`."""
        return lazy_map(
            self._pool,
            self._door,
            self._options,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> NoReturn:
        """Refuse: a view does not own its pool.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"shutdown(wait={wait!r}, cancel_futures={cancel_futures!r}) on a view of pool "
            f"{self._pool!r}: a view does not own its pool; stop the pool itself"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool!r} with {self._options!r}>"
