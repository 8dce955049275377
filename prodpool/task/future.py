"""The future that `submit` returns: a ``concurrent.futures.Future`` that is cheap while no thread waits.

The stdlib future makes a Condition (a lock, a deque, 1.1 kB) for every task. Here the pool's lock
guards each state change, and a Condition appears only when ``wait`` or ``as_completed`` ask for it.
They, and ``asyncio.wrap_future`` from 3.14 on, read attributes of the base class that are private:
``_condition``, ``_state``, ``_waiters``, ``_result``, ``_exception``. That is the one place where
prodpool stands on private names (docs/decisions, D2; guarded by tests/cpython).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from prodpool.concurrency import fork_hooks
from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.interrupts import in_main_thread, meant_for_thread
from prodpool.task.future_owner import CallbackRunner, FutureOwner
from prodpool.text import type_name

T = TypeVar("T")

# The state words are the stdlib's own; ``wait`` compares them.
PENDING = "PENDING"
RUNNING = "RUNNING"
CANCELLED = "CANCELLED_AND_NOTIFIED"
FINISHED = "FINISHED"
# A plain cancel() of the stdlib leaves CANCELLED, on which ``wait`` and ``as_completed`` hang until
# some worker comes by. Ours has no such state: a cancelled task is notified at once.
_OVER = frozenset({CANCELLED, FINISHED})
# Seconds that a future's condition is waited for; it is held for microseconds, see `PoolFuture.set_outcome`.
CONDITION_TIMEOUT = 2.0


class PoolFuture(Future[T]):
    """The result to come of one task. Use it like any ``concurrent.futures.Future``."""

    # ``owner.lock`` guards ``_state``, ``_result``, ``_exception``, ``_waiter_locks``, ``_callbacks`` and the
    # making of ``_cond``; once ``_cond`` exists, ``_state`` changes under its lock as well, because
    # ``concurrent.futures.wait`` reads it twice under that lock and counts on the two being equal.
    #
    # It is settled in two steps: `resolve` sets the result, the first to come, and `announce` notifies all
    # that waits. The second may be interrupted anywhere and called again: it goes on where it was.

    __slots__ = (
        "_callbacks",
        "_calling",
        "_cond",
        "_cond_lock",
        "_condition",
        "_exception",
        "_owner",
        "_waiter_locks",
        "_result",
        "_state",
        "_task",
        "_notified",
        "_unnotified",
        "_waiters",
    )

    def __init__(self, owner: FutureOwner, task: Any) -> None:
        # The base class's __init__ is left out on purpose: it would make the Condition.
        self._owner = owner
        self._task: Any = task
        self._state: str = PENDING
        self._result: Any = None
        self._exception: BaseException | None = None
        # None until `_condition` was asked for.
        self._cond: threading.Condition | None = None
        self._waiter_locks: list[threading.Lock] | None = None
        self._callbacks: list[Callable[[Future[T]], object]] | None = None

    # What concurrent.futures and asyncio look at.

    _waiters: list[Any]
    _notified: bool
    _unnotified: list[Any]
    _calling: Iterator[Callable[[Future[T]], object]]
    if TYPE_CHECKING:
        _cond_lock: threading.RLock
        _condition: threading.Condition
    else:

        def __getattr__(self, name: str) -> Any:
            """Make what ``wait`` and ``as_completed`` ask for, the first time that they do.

            From then on it is a plain attribute: a property would be code of ours in the midst of their
            ``with`` blocks, and a signal handler that raises there leaves the lock taken for ever.
            """
            if name != "_condition":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            with self._owner.lock:
                if self._cond is None:
                    self._waiters = []
                    # Whether `announce` has notified them.
                    self._notified = False
                    # Those that waited when the result was set. Who came later saw that it was, and is not
                    # to be notified: `wait` would count it twice.
                    self._unnotified = []
                    # Taken as it is, never through the Condition: that takes it in Python code, with the
                    # same danger.
                    self._cond_lock = threading.RLock()
                    self._condition = threading.Condition(self._cond_lock)
                    self._cond = self._condition
            return self._cond

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
        """Take the task out of the queue. False once it runs or has finished.

        A task that runs is told by ``current_task().cancelled``, and it is up to the task to end.
        """
        task = self._task
        if task is not None and self._owner.cancel(task):
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
            self._wait(timeout)
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
            self._wait(timeout)
        if self._state == CANCELLED:
            raise CancelledError
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn(self)`` once the task is done, or now if it is; in a worker thread or this one."""
        with self._owner.lock:
            if self._state not in _OVER:
                if self._callbacks is None:
                    callbacks: list[Callable[[Future[T]], object]] = []
                    self._callbacks = callbacks
                    # What `announce` has not called of them; several threads may be at it.
                    self._calling = iter(callbacks)
                self._callbacks.append(fn)
                return
        try:
            fn(self)
        except Exception as error:  # noqa: BLE001  # as the stdlib; this thread's own exit gets through
            self._owner.callback_failed(fn, error)

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
            state += f" raised {type_name(self._exception)}"
        task = self._task  # None once it has ended
        of = "" if task is None else f" of task {task.name!r}"
        return f"<{type(self).__name__}{of} in pool {self._owner.pool!r}: {state}>"

    # What the pool calls.

    def resolve(
        self,
        state: str,
        result: Any,
        exception: BaseException | None,
        run_callbacks: CallbackRunner | None = None,
    ) -> bool:
        """Settle the future, wake the waiting threads, run the callbacks; the first call wins.

        Never called with the pool's lock held. False when the future was settled before. A thread that
        callbacks must not hold up passes ``run_callbacks``, who makes them.
        """
        first = self.set_outcome(state, result, exception)
        if first:
            self.announce(run_callbacks)
        return first

    def set_outcome(self, state: str, result: Any, exception: BaseException | None) -> bool:
        """Set the result; False when another was set before. `announce` is to be called then."""
        with self._owner.lock:
            cond = self._cond
            if cond is None:
                return self._set_state(state, result, exception)
        if in_main_thread():
            with self._cond_lock, self._owner.lock:
                return self._set_state(state, result, exception)
        # A signal handler that raised in the midst of ``wait`` may have left the lock taken for ever (in code
        # of the stdlib's, which its own futures suffer from too). A worker is not to hang for that.
        taken = self._cond_lock.acquire(timeout=CONDITION_TIMEOUT)
        try:
            with self._owner.lock:
                return self._set_state(state, result, exception)
        finally:
            if taken:
                self._cond_lock.release()

    def announce(self, run_callbacks: CallbackRunner | None = None) -> None:
        """Wake the waiting threads and run the callbacks, or the rest of them. The result is set by now.

        Raises:
            BaseException: What a signal handler raised while a callback was being made, once all were.
        """
        if self._cond is not None and not self._notified:
            # In the main thread a signal handler may raise in the midst of it: another thread does it then.
            by_another = in_main_thread() and background_thread().call_soon(self._notify_waiters)
            if not by_another:
                self._notify_waiters()
        self.wake()
        if self._callbacks:
            run_callbacks(self._call_back) if run_callbacks is not None else self._call_back()

    def wake(self) -> None:
        """Wake every thread that waits in `result`. The future is settled by now."""
        # None is taken off: two threads may be at it, and once more does no harm to a lock that is used once.
        for lock in self._waiter_locks or ():
            with suppress(RuntimeError):
                lock.release()

    def _set_state(self, state: str, result: Any, exception: BaseException | None) -> bool:
        if self._state in _OVER:
            return False
        if self._cond is not None:
            self._unnotified = list(self._waiters)
        self._result = result
        self._exception = exception
        self._task = None  # the caller holds the task
        # The state last: readers look at it first and without a lock.
        self._state = state
        return True

    def _notify_waiters(self) -> None:
        """Notify those that wait in ``wait`` or ``as_completed``; not called where a signal may raise."""
        taken = self._cond_lock.acquire(timeout=CONDITION_TIMEOUT)
        try:
            if self._notified:
                return
            while self._unnotified:
                self._notify(self._unnotified[-1])
                self._unnotified.pop()
            if taken and self._cond is not None:
                self._cond.notify_all()
            self._notified = True
        finally:
            if taken:
                self._cond_lock.release()

    def _notify(self, waiter: Any) -> None:
        if self._state == CANCELLED:
            waiter.add_cancelled(self)
        elif self._exception is not None:
            waiter.add_exception(self)
        else:
            waiter.add_result(self)

    def _wait(self, timeout: float | None) -> None:
        task = self._task
        if task is not None and (timeout is None or timeout > 0):
            self._owner.run_inline(task)
        lock = threading.Lock()
        lock.acquire()
        # In a child that was forked in C, the pool's lock raises from now on.
        fork_hooks.notice_fork()
        with self._owner.lock:
            if self._state in _OVER:
                return
            if self._waiter_locks is None:
                self._waiter_locks = []
            self._waiter_locks.append(lock)
        if lock.acquire(timeout=-1 if timeout is None else _bounded(timeout)):
            return
        with self._owner.lock:
            if self._state in _OVER:
                return
            self._waiter_locks.remove(lock)
        raise TimeoutError

    def _call_back(self) -> None:
        interrupt: BaseException | None = None
        # The iterator is shared: each callback is handed out once, whichever thread asks, and nothing can
        # come between that and the call.
        for fn in self._calling:
            try:
                fn(self)
            except BaseException as error:  # noqa: BLE001  # a raise here would kill a worker for ever
                if meant_for_thread(error):
                    interrupt = error
                else:
                    self._owner.callback_failed(fn, error)
        self._callbacks = None
        if interrupt is not None:
            try:
                raise interrupt
            finally:
                del interrupt  # this frame is in its traceback


def _bounded(timeout: float) -> float:
    return min(max(timeout, 0.0), threading.TIMEOUT_MAX)
