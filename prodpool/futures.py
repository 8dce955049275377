"""The future that `submit` returns: a ``concurrent.futures.Future`` that is cheap while nobody waits.

The stdlib future makes a Condition (a lock, a deque, 1.1 kB) for every task. Here the pool's lock
guards each state change, and a Condition appears only when ``wait`` or ``as_completed`` ask for it.
They, and ``asyncio.wrap_future`` from 3.14 on, read attributes of the base class that are private:
``_condition``, ``_state``, ``_waiters``, ``_result``, ``_exception``. That is the one place where
prodpool stands on private names (docs/decisions.md, D2; guarded by tests/cpython).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

T = TypeVar("T")
# Has a call made by another thread.
Elsewhere = Callable[[Callable[[], None]], object]

# The state words are the stdlib's own; ``wait`` compares them.
PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"
# A plain cancel() of the stdlib leaves CANCELLED, on which ``wait`` and ``as_completed`` hang until
# some worker comes by. Ours has no such state: a cancelled task is notified at once.
_OVER = frozenset({CANCELLED, FINISHED})


class Home(Protocol):
    """What a future needs of the pool it came from. The task is the pool's affair; here it is opaque."""

    lock: threading.Lock

    def cancel(self, task: Any) -> bool:
        """Take a queued task out of the pool for good; False when it is too late."""
        ...

    def assist(self, task: Any) -> None:
        """Run ``task`` in the calling thread if that is a worker of this pool and it still waits."""

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Report a done-callback that raised."""


class PoolFuture(Future[T]):
    """The result to come of one task. Use it like any ``concurrent.futures.Future``.

    ``home.lock`` guards ``_state``, ``_result``, ``_exception``, ``_parked``, ``_callbacks`` and the
    making of ``_cond``; once ``_cond`` exists, ``_state`` changes under it as well, because
    ``concurrent.futures.wait`` reads it twice under that lock and counts on the two being equal.
    """

    __slots__ = (
        "_callbacks",
        "_cond",
        "_exception",
        "_home",
        "_parked",
        "_result",
        "_state",
        "_task",
        "_waiters",
    )

    def __init__(self, home: Home, task: Any) -> None:
        # The base class's __init__ is left out on purpose: it would make the Condition.
        self._home = home
        self._task: Any = task
        self._state: str = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        self._cond: threading.Condition | None = None
        self._parked: list[threading.Lock] | None = None
        self._callbacks: list[Callable[[Future[T]], object]] | None = None

    # What concurrent.futures and asyncio look at.

    if TYPE_CHECKING:
        # To a type checker it is the attribute that the base class has, and as_completed asks for.
        _condition: threading.Condition
    else:

        @property
        def _condition(self) -> threading.Condition:
            cond = self._cond
            if cond is None:
                with self._home.lock:
                    cond = self._cond
                    if cond is None:
                        self._waiters = []
                        cond = self._cond = threading.Condition()
            return cond

    @property
    def _done_callbacks(self) -> list[Callable[[Future[T]], object]]:
        return self._callbacks or []

    # The public face.

    def cancelled(self) -> bool:
        """Return True if the task was cancelled before it ran."""
        return self._state == CANCELLED

    def running(self) -> bool:
        """Return True while a worker runs the task; it is never True for a task that still waits."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Return True once the task has finished or was cancelled."""
        return self._state in _OVER

    def cancel(self) -> bool:
        """Take the task out of the queue. False once it runs or has finished."""
        task = self._task
        if task is not None and self._home.cancel(task):
            return True
        return self._state == CANCELLED

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned, or raise what it raised.

        Called from inside a task on a task of the same pool that still waits, it runs that task
        right there instead of waiting for a worker, whatever the timeout (unless that is 0).

        Raises:
            TimeoutError: The task is not done after ``timeout`` seconds.
            CancelledError: The task was cancelled, by `cancel` or by the pool's stop.
        """
        if self._state not in _OVER:
            self._await(timeout)
        if self._state == CANCELLED:
            raise CancelledError
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                # The traceback refers to this frame; do not let it refer back to the future.
                self = None  # type: ignore[assignment]  # noqa: PLW0642
        result: T = self._result
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what the task raised, None if it returned. Waits and raises as `result` does."""
        if self._state not in _OVER:
            self._await(timeout)
        if self._state == CANCELLED:
            raise CancelledError
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(self)`` once the task is done, or now if it is; in a worker thread or this one."""
        with self._home.lock:
            if self._state not in _OVER:
                if self._callbacks is None:
                    self._callbacks = []
                self._callbacks.append(fn)
                return
        try:
            fn(self)
        except Exception as error:  # noqa: BLE001  # as the stdlib; this thread's own exit gets through
            self._home.callback_failed(fn, error)

    def set_running_or_notify_cancel(self) -> bool:
        """Refuse: only the pool moves its futures on."""
        raise InvalidStateError("a pool's future is moved on by the pool alone")

    def set_result(self, result: T) -> None:  # noqa: ARG002  # the base class's signature
        """Refuse: only the pool resolves its futures."""
        raise InvalidStateError("a pool's future is resolved by the pool alone")

    def set_exception(self, exception: BaseException | None) -> None:  # noqa: ARG002
        """Refuse: only the pool resolves its futures."""
        raise InvalidStateError("a pool's future is resolved by the pool alone")

    def __repr__(self) -> str:
        state = {CANCELLED: "cancelled", PENDING: "queued"}.get(self._state, self._state.lower())
        if self._exception is not None:
            state += f" raised {type(self._exception).__name__}"
        return f"<{type(self).__name__} at {id(self):#x} {state}>"

    # What the pool calls.

    def begin(self) -> None:
        """Mark the task as running. The pool's lock is held."""
        self._state = RUNNING

    def finish_quietly(self, result: Any) -> bool:
        """Set the result if nobody but a parked thread waits for it; False if there is more to do.

        The pool's lock is held; call `wake` once it is released, or `resolve` when this said False.
        """
        if self._cond is not None or self._callbacks is not None:
            return False
        self._take(FINISHED, result, None)
        return True

    def resolve(
        self, state: str, result: Any, exception: BaseException | None, aside: Elsewhere | None = None
    ) -> bool:
        """Settle the future, wake who waits, run the callbacks; the first to come wins.

        Never called with the pool's lock held. False when the future was settled before. A thread that
        callbacks must not hold up passes ``aside``, who makes them.
        """
        with self._home.lock:
            cond = self._cond
            if cond is None and not self._take(state, result, exception):
                return False
        if cond is not None:
            with cond:
                with self._home.lock:
                    if not self._take(state, result, exception):
                        return False
                for waiter in self._waiters:
                    waiter.add_cancelled(self) if state == CANCELLED else self._tell(waiter)
                cond.notify_all()
        self.wake()
        if self._callbacks:
            aside(self._call_back) if aside is not None else self._call_back()
        return True

    def wake(self) -> None:
        """Let every thread that is parked in `result` go on. The future is settled by now."""
        if self._parked is not None:
            parked, self._parked = self._parked, None
            for lock in parked:
                lock.release()

    def _take(self, state: str, result: Any, exception: BaseException | None) -> bool:
        if self._state in _OVER:
            return False
        self._result = result
        self._exception = exception
        self._task = None
        # The state last: readers look at it first and without a lock.
        self._state = state
        return True

    def _tell(self, waiter: Any) -> None:
        if self._exception is not None:
            waiter.add_exception(self)
        else:
            waiter.add_result(self)

    def _await(self, timeout: float | None) -> None:
        task = self._task
        if task is not None and (timeout is None or timeout > 0):
            self._home.assist(task)
        lock = threading.Lock()
        lock.acquire()
        with self._home.lock:
            if self._state in _OVER:
                return
            if self._parked is None:
                self._parked = []
            self._parked.append(lock)
        if lock.acquire(timeout=-1 if timeout is None else _bounded(timeout)):
            return
        with self._home.lock:
            if self._state in _OVER:
                return
            self._parked.remove(lock)
        raise TimeoutError

    def _call_back(self) -> None:
        callbacks, self._callbacks = self._callbacks, None
        for fn in callbacks or ():
            self._call(fn)

    def _call(self, fn: Callable[[Future[T]], object]) -> None:
        try:
            fn(self)
        except BaseException as error:  # noqa: BLE001  # a raise here would kill the worker for ever
            self._home.callback_failed(fn, error)


def _bounded(timeout: float) -> float:
    return min(max(timeout, 0.0), threading.TIMEOUT_MAX)
