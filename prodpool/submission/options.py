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
            raise TypeError(f"task={shown(task)} must be a short string, such as 'resize'")
        # It goes into log lines as it is: a line break in it would forge one.
        if not task or len(task) > LONGEST_NAME or not task.isprintable():
            raise ValueError(
                f"task={shown(task)} must have 1 to {LONGEST_NAME} printable characters, such as 'resize'"
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

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Schedule ``fn(*args, **kwargs)`` and return its result; see `InstrumentedPool.run`."""
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


class OptionsExecutor(Executor):
    """An executor whose tasks have options: what `InstrumentedPool` and `PoolView` have in common."""

    _submitter: Submitter
    _options = DEFAULT_OPTIONS

    @property
    def _pool(self) -> Executor:
        """What has to live as long as a view of it, or an iterator of `map`, does."""
        return self

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)`` and return its future.

        The calling thread's contextvars are captured and seen by ``fn``.

        Args:
            fn: Called once, in a worker.
            *args: Its positional arguments.
            **kwargs: Its keyword arguments, whatever they are called.

        Raises:
            PoolFullError: ``overload="reject"`` and no slot is free; ``retry_after`` is the seconds after
                which one is likely. Also, whatever the policy, when it would wait inside a task of this pool.
            BreakerOpenError: The breaker holds tasks back for ``retry_after`` seconds.
            PoolClosedError: `stop` or `shutdown` has begun.
            PoolForkedError: The process was forked since the pool was used, and it cannot start anew.
            TypeError: ``fn`` cannot be called, or is an ``async def`` function.

        Threads: safe from any thread. With ``overload="block"`` it may block, and raises RuntimeError
            where that would block a running event loop.
        Source: Executor.submit, docs.python.org/3/library/concurrent.futures.html
        """
        return self._submitter.submit(self._options, fn, args, kwargs)

    def submit_wait(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> PoolFuture[T]:
        """Schedule ``fn(*args, **kwargs)``, waiting for a slot whatever the overload policy.

        Bound the wait with ``pool.options(wait=seconds).submit_wait(...)``.

        Raises:
            PoolFullError: The wait was bounded and is over.
            TaskExpiredError: The task's own ``deadline`` passed first.
            PoolBrokenError: The backend broke meanwhile.
            BreakerOpenError, PoolClosedError: At once, as by `submit`: a wait does not outlast these.
            RuntimeError: The calling thread runs an event loop, which this would block.
        """
        return self._submitter.submit_wait(self._options, fn, args, kwargs)

    async def submit_async(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Schedule ``fn(*args, **kwargs)``, suspending this coroutine while there is no slot.

        Returns an asyncio future, for a caller that has something to do meanwhile; `run` awaits that as well.
        A coroutine that is cancelled while it waits gives its place up. Waiting coroutines hold no thread. To
        cancel the future cancels a queued task, and tells one that runs by ``current_task().cancelled``.
        """
        future: PoolFuture[T] = await self._submitter.submit_async(self._options, fn, args, kwargs)
        return asyncio.wrap_future(future)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Schedule ``fn(*args, **kwargs)`` as `submit_async` does, and return its result or raise its error.

        If this coroutine is cancelled, the task is cancelled while it is queued; one that runs is told by
        ``current_task().cancelled``.

        Raises:
            PoolFullError, TaskExpiredError, PoolClosedError, BreakerOpenError: As by `submit_wait`. Also
                PoolClosedError if a stop has dropped the task from the queue.
        """
        future: PoolFuture[T] = await self._submitter.submit_async(self._options, fn, args, kwargs)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not future.cancelled() or (caller is not None and caller.cancelling()):
                raise
            # This coroutine was not cancelled, and no other has the future: it was the stop.
            raise self._submitter.refusal() from None

    def options(
        self,
        *,
        task: str | None = None,
        deadline: float | None = None,
        wait: float | None = None,
        idempotent: bool | None = None,
        timeout: float | None = None,
    ) -> PoolView:
        """Return a light executor that submits to this pool with these options, and the others as here.

        Args:
            task: Name in logs and spans; None for the function's own.
            deadline: Seconds from submit after which the task is dropped unrun and its future raises
                TaskExpiredError. A wait for a slot lasts no longer either; ``submit`` itself raises it then.
            wait: Seconds that ``submit`` waits for a slot, whatever the overload policy.
            idempotent: Whether a task whose worker process was lost may be run again, at most twice.
            timeout: Seconds it may run. Over process pools and loky its worker process is killed then, and
                its future raises TaskTimeoutError; everywhere else ``current_task().cancelled`` is set, and
                it is up to the task to end.
        """
        options = check_options(
            self._options, task=task, deadline=deadline, wait=wait, idempotent=idempotent, timeout=timeout
        )
        return PoolView(self._pool, self._submitter, options)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Call ``fn`` for each set of arguments; yield the results in order.

        Lazy and bounded: as many calls as fit are submitted at once, the others as results are read. It
        waits for slots whatever the overload policy. Closing the iterator cancels what has not begun, and
        sets ``current_task().cancelled`` for what runs.

        Args:
            fn: Called with one item of each iterable.
            *iterables: Read as the calls are submitted; the shortest ends it.
            timeout: Seconds from now after which reading a result raises TimeoutError.
            chunksize: Calls that one task makes, over worker processes and other backends than threads: they
                count, wait, fail and run into a limit as one. Without effect over threads, as in the stdlib.
            buffersize: Tasks whose results have not been read, at most; None for as many as the pool holds.

        Raises:
            BreakerOpenError, PoolClosedError: From here or while results are read, as by `submit`.

        Source: Executor.map, docs.python.org/3.14/library/concurrent.futures.html
        """
        return lazy_map(
            self._pool,
            self._submitter,
            self._options,
            fn,
            iterables,
            timeout=timeout,
            chunksize=chunksize,
            buffersize=buffersize,
        )


class PoolView(OptionsExecutor):
    """A light executor: it submits to its pool with its options. Making one costs next to nothing.

    It has the pool's ``submit``, ``submit_wait``, ``submit_async``, ``run``, ``map`` and ``options``.
    """

    def __init__(self, pool: Executor, submitter: Submitter, options: TaskOptions) -> None:
        self._of = pool
        self._submitter = submitter
        self._options = options

    @property
    def _pool(self) -> Executor:
        return self._of

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
