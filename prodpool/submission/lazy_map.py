"""`map` over a bounded pool: lazy, in order, and never further ahead than slots and buffer allow."""

from __future__ import annotations

import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from prodpool.concurrency.background_thread import background_thread
from prodpool.config.settings import check_count, check_seconds
from prodpool.errors import PoolFullError, RejectedError
from prodpool.task.coroutines import async_refusal, is_async
from prodpool.task.future import PoolFuture
from prodpool.task.task import TaskOptions, callable_name
from prodpool.workers.in_worker.call import call_each

if TYPE_CHECKING:
    from prodpool.submission.submitter import Submitter

_NOTHING: Any = object()
_END: Any = object()


def lazy_map(
    owner: object,
    submitter: Submitter,
    options: TaskOptions,
    fn: Callable[..., Any],
    iterables: tuple[Iterable[Any], ...],
    *,
    timeout: float | None,
    chunksize: int,
    buffersize: int | None,
) -> Iterator[Any]:
    """Check the arguments of a `map` call, submit what fits and return its results' iterator."""
    size = check_count("chunksize", chunksize, least=1)
    if timeout is not None:
        check_seconds("timeout", max(timeout, 0.0) if isinstance(timeout, int | float) else timeout)
    ahead = submitter.slot_count()
    if buffersize is not None:
        ahead = min(ahead, check_count("buffersize", buffersize, least=1))
    if size == 1 or not submitter.carries():
        return MapIterator(LazyMap(owner, submitter, options, fn, iterables, timeout=timeout, ahead=ahead))
    if is_async(fn):  # `submit` would see no more than `call_each`
        raise async_refusal(fn)
    named = replace(options, task=options.task or callable_name(fn))
    chunks = _chunks(zip(*iterables, strict=False), size)
    calls = LazyMap(owner, submitter, named, partial(call_each, fn), (chunks,), timeout=timeout, ahead=ahead)
    return ChunkedIterator(MapIterator(calls))


def _chunks(calls: Iterator[tuple[Any, ...]], size: int) -> Iterator[list[tuple[Any, ...]]]:
    while chunk := list(islice(calls, size)):
        yield chunk


class MapIterator(Iterator[Any]):
    """The results of one `map` call, in order. Closing it cancels what has not begun.

    So does dropping it once a result was read, as with the stdlib's; dropped unread it cancels nothing:
    the calls were made. A generator would not do: closed before its first result is read it never runs
    its ``finally``, and dropped it runs it wherever the garbage collector happens to, perhaps in a thread
    that holds the pool's lock. Nor would ``__del__``: it runs for an iterator that was read to its end too,
    and what a signal's handler raises in it, a SystemExit perhaps, reaches nobody.
    """

    def __init__(self, calls: LazyMap) -> None:
        self._calls = calls
        self._finalizer: weakref.finalize[[LazyMap], MapIterator] | None = None

    def __next__(self) -> Any:
        if self._finalizer is None and not self._calls.over:
            self._finalizer = weakref.finalize(self, _cancel_soon, self._calls)
            self._finalizer.atexit = False
        try:
            return self._calls.next_result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Cancel what has not begun; there are no more results."""
        if self._finalizer is not None:
            self._finalizer.detach()
        self._calls.cancel()


def _cancel_soon(calls: LazyMap) -> None:
    background_thread().call_soon(calls.cancel)


class ChunkedIterator(Iterator[Any]):
    """The results of one `map` call whose tasks make several calls each."""

    def __init__(self, chunks: MapIterator) -> None:
        self._chunks = chunks
        self._results: Iterator[Any] = iter(())

    def __next__(self) -> Any:
        while (result := next(self._results, _END)) is _END:
            self._results = iter(next(self._chunks))
        return result

    def close(self) -> None:
        """Cancel what has not begun; there are no more results."""
        self._results = iter(())
        self._chunks.close()


class LazyMap:
    """The state of one `map` call: calls not yet made, and futures not yet read."""

    def __init__(
        self,
        owner: object,
        submitter: Submitter,
        options: TaskOptions,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        *,
        timeout: float | None,
        ahead: int,
    ) -> None:
        # Keeps the pool alive while there are calls left: one without a reference is drained and
        # takes nothing more.
        self._owner: object | None = owner
        self._submitter = submitter
        self._options = options
        self._fn = fn
        self._calls: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        # A call that was read and has not found a slot yet; nothing is read before it is needed.
        self._next: Any = _NOTHING
        self._ends_at = math.inf if timeout is None else time.monotonic() + timeout
        self._ahead = ahead
        self._futures: deque[PoolFuture[Any]] = deque()
        # What the pool said when it took no more calls; for after the results that are there.
        self._refusal: RejectedError | None = None
        self.over = False
        try:
            # At once, as the stdlib does: a map whose results are not read still does its work.
            self._submit_what_fits()
        except BaseException:
            self.cancel()
            raise

    def next_result(self) -> Any:
        """Submit what fits and return the next result in order.

        Raises:
            StopIteration: There is none left.
            RejectedError: The pool takes no more calls, and the results of those it took are read.
        """
        try:
            self._submit_what_fits()
            if not self._futures and self._has_next():
                self._wait_for_slot()
        except RejectedError as error:
            if not self._futures:
                raise
            self._refusal, self._next = error, _END
        if self._futures:
            return self._read()
        if self._refusal is not None:
            raise self._refusal
        raise StopIteration

    def _read(self) -> Any:
        future = self._futures.popleft()
        try:
            return future.result(self._left())
        finally:
            # Of no effect once it is done; after a timeout it must not run for nothing. And no
            # reference to it may stay behind in a traceback.
            future.cancel()
            del future

    def _has_next(self) -> bool:
        if self._next is _NOTHING:
            self._next = next(self._calls, _END)
        if self._next is _END:
            self._owner = None
        return self._next is not _END

    def _submit_what_fits(self) -> None:
        while len(self._futures) < self._ahead and self._has_next():
            future = self._submitter.try_submit(self._options, self._fn, self._next)
            if future is None:
                return
            self._futures.append(future)
            self._next = _NOTHING

    def _wait_for_slot(self) -> None:
        left = self._left()
        waiting = self._options if left is None else replace(self._options, wait=left)
        try:
            self._futures.append(self._submitter.submit_wait(waiting, self._fn, self._next, {}))
        except PoolFullError as full:
            if self._left() == 0:
                raise TimeoutError from full
            raise
        self._next = _NOTHING

    def _left(self) -> float | None:
        return None if math.isinf(self._ends_at) else max(0.0, self._ends_at - time.monotonic())

    def cancel(self) -> None:
        """Cancel what has not begun, and submit nothing more."""
        self.over = True
        self._next = _END
        self._owner = self._refusal = None
        while self._futures:
            self._futures.popleft().cancel()
