"""How a pool is stopped and waited for: by threads, by coroutines, by ``with`` and ``async with``."""

from __future__ import annotations

import asyncio
import math
from functools import partial
from types import TracebackType
from typing import Self

from prodpool.concurrency.event_loop import call_in_own_thread, on_event_loop, running_loop
from prodpool.concurrency.interrupts import held_here
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.config.settings import check_seconds
from prodpool.engine import Engine
from prodpool.engine_holder import EngineHolder
from prodpool.execution.current_task import is_inside
from prodpool.scheduling.wait_queue import IdleWaiter
from prodpool.shutdown.report import StopReport
from prodpool.submission.options import OptionsExecutor

_STOP_OUTSIDE = "call shutdown(wait=False) there, or stop the pool from outside"
_WAIT_OUTSIDE = "wait outside of the pool's tasks, or have the task wait for the futures that it needs"
_NO_LOOP_STOP = "call stop() in a thread, or have another async library call stop() in one of its threads"
_NO_LOOP_WAIT = "call wait_idle() in a thread, or have another async library call it in one of its threads"


class StoppableExecutor(OptionsExecutor):
    """An executor that is drained within a deadline, and whose being idle can be waited for."""

    _holder: EngineHolder

    @property
    def _engine(self) -> Engine:
        """The engine of this process."""
        return self._holder.current()

    def stop(self, deadline: float | None = None) -> StopReport:
        """Drain the pool within ``deadline`` seconds and report what became of its tasks.

        New tasks are refused, queued and running ones may finish. At the deadline queued tasks are
        cancelled, ``current_task().cancelled`` is set for running ones, and those that still do not end
        are abandoned: logged with their stack, their futures resolved with WorkerLostError, and kept
        from holding up the interpreter's exit.

        Args:
            deadline: Seconds; None for ``drain_deadline``. A later call may shorten it, never prolong it.

        Raises:
            RuntimeError: Called inside a task of this pool, or its done-callback: it would wait for itself.

        Threads: safe from any thread, several times, and from a signal handler. In a thread that runs an
            event loop it blocks that loop, and logs that if there is anything to wait for: see `stop_async`.
        """
        return self._holder.stop(self._stop_deadline(deadline, "stop()"), wait=True)

    async def stop_async(self, deadline: float | None = None) -> StopReport:
        """Drain the pool as `stop` does, while the event loop goes on, and report what became of its tasks.

        Tasks that call back into the loop can finish. If this coroutine is cancelled, the stop goes on
        without it; a later call waits for the same stop.

        Args:
            deadline: Seconds; None for ``drain_deadline``. A later call may shorten it, never prolong it.

        Raises:
            RuntimeError: Called inside a task of this pool, or without a running asyncio event loop.
        """
        seconds = self._stop_deadline(deadline, "stop_async()")
        loop = running_loop("stop_async()", _NO_LOOP_STOP)
        name = f"prodpool-await-stop-{self._holder.engine.settings.name}"
        return await call_in_own_thread(loop, name, partial(self._holder.stop, seconds, wait=True))

    @property
    def drain_deadline(self) -> float:
        """The seconds that `shutdown`, the end of ``with``, and `stop` without a deadline may take."""
        return self._holder.engine.settings.drain_deadline

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop the pool as an `Executor` does, but within ``drain_deadline``.

        Args:
            wait: Return when it has stopped; else at once, and it drains in the background.
            cancel_futures: Cancel queued tasks at once.
        """
        if wait:
            self._refuse_from_inside("shutdown(wait=True)", _STOP_OUTSIDE)
        self._holder.stop(self.drain_deadline, wait=wait, cancel_queued=cancel_futures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_async()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until nothing is queued or running; False if that does not come about in time.

        The pool stays open: others may submit meanwhile, and it is enough that it was idle at one moment.
        A task counts as running until its done-callbacks are made, an abandoned one until it ends after
        all. Callbacks of tasks that never ran are not waited for. Queued tasks of a paused pool stay queued.

        Args:
            timeout: Seconds; None for as long as it takes, 0 to look and not wait.

        Raises:
            RuntimeError: Called inside a task of this pool, or its done-callback, which it would wait for; in
                a thread that runs an event loop, which it would block; or by a signal handler or destructor
                that has interrupted the pool itself.
        """
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        self._refuse_from_inside("wait_idle()", _WAIT_OUTSIDE)
        if seconds and on_event_loop():
            raise RuntimeError(
                f"wait_idle() of pool {self._holder.engine.settings.name!r} would block the event loop of "
                "this thread: use 'await pool.wait_idle_async()' there"
            )
        idle = SignalSafeEvent()
        waiter, dispatcher = IdleWaiter(idle.set), self._engine.dispatcher
        if seconds and held_here(dispatcher.lock):
            raise RuntimeError(
                f"wait_idle() of pool {self._holder.engine.settings.name!r} in a signal handler or destructor"
                " that has interrupted the pool itself would keep it from going on: wait in another thread"
            )
        try:
            return not dispatcher.add_idle_waiter(waiter) or idle.wait(seconds) or waiter.idle
        finally:
            dispatcher.remove_idle_waiter(waiter)

    async def wait_idle_async(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109  # as `wait_idle`
        """Wait as `wait_idle` does, while the event loop goes on. It holds no thread.

        Args:
            timeout: Seconds; None for as long as it takes, 0 to look and not wait.

        Raises:
            RuntimeError: Called inside a task of this pool, or without a running asyncio event loop.
        """
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        self._refuse_from_inside("wait_idle_async()", _WAIT_OUTSIDE)
        loop = running_loop("wait_idle_async()", _NO_LOOP_WAIT)
        idle: asyncio.Future[None] = loop.create_future()
        waiter = IdleWaiter(lambda: loop.call_soon_threadsafe(_set, idle))
        dispatcher = self._engine.dispatcher
        try:
            if not dispatcher.add_idle_waiter(waiter):
                return True
            async with asyncio.timeout(None if math.isinf(seconds) else seconds):
                await idle
        except TimeoutError:
            return waiter.idle
        finally:
            dispatcher.remove_idle_waiter(waiter)
        return True

    def _stop_deadline(self, deadline: float | None, what: str) -> float:
        seconds = self.drain_deadline if deadline is None else check_seconds("deadline", deadline)
        self._refuse_from_inside(what, _STOP_OUTSIDE)
        return seconds

    def _refuse_from_inside(self, what: str, instead: str) -> None:
        engine = self._holder.engine
        if is_inside(engine.dispatcher.worker_set.workers):
            raise RuntimeError(
                f"{what} inside a task of pool {engine.settings.name!r}, or a done-callback of one, would "
                f"wait for that very task: {instead}"
            )


def _set(idle: asyncio.Future[None]) -> None:
    if not idle.done():
        idle.set_result(None)
