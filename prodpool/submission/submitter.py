"""From a call to an admitted task and its future, or to a refusal that is counted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from prodpool.admission.permits import acquire_all, release_all
from prodpool.concurrency.background_thread import background_thread
from prodpool.concurrency.event_loop import blocks_loop, on_event_loop
from prodpool.errors import (
    PoolBrokenError,
    PoolClosedError,
    PoolFullError,
    RejectedError,
    TaskExpiredError,
)
from prodpool.execution.current_task import is_inside
from prodpool.execution.runner import check_stack_depth
from prodpool.scheduling.dispatcher import Admission
from prodpool.scheduling.wait_queue import AsyncWaiter, ThreadWaiter, Waiter
from prodpool.submission.grpc_overload import GrpcOverload
from prodpool.submission.task_context import context_maker
from prodpool.task.around_call import AroundCall
from prodpool.task.coroutines import ASYNC_FLAGS, async_refusal, is_async
from prodpool.task.future import PoolFuture
from prodpool.task.outcomes import Reason, State
from prodpool.task.task import Task, TaskOptions
from prodpool.text import said, shown

if TYPE_CHECKING:
    from prodpool.engine import Engine
    from prodpool.engine_holder import EngineHolder

_NESTED = (
    "A task of this pool would wait here for a slot that only tasks of this pool can free: call the function "
    "directly, or submit it to another pool"
)


class Submitter:
    """Submits tasks to one pool."""

    def __init__(self, holder: EngineHolder) -> None:
        self._holder = holder
        self._mark = holder.mark
        self._take(holder.engine)

    def _take(self, engine: Engine) -> None:
        """Submit to ``engine`` from now on."""
        self._engine = engine
        self._dispatcher = engine.dispatcher
        self._runner = engine.runner
        self._permit_sources = engine.permit_sources
        self._now = engine.now
        self._overload = engine.settings.overload
        self._pool = engine.settings.name
        self._around = engine.settings.around
        self._around_failed = engine.runner.around_failed
        self._task_context = context_maker(engine.settings)
        self._grpc_overload = GrpcOverload(engine.log)

    def _enter_child(self) -> None:
        """Go on with the engine of this process, which was forked since the last task."""
        self._take(self._holder.current())
        # Last: other threads look at it first.
        self._mark = self._holder.mark

    def carries(self) -> bool:
        """Tell whether calls are carried to another process, so that it pays to carry several at once."""
        return not self._engine.abilities.leased

    def submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Admit a call as the pool's overload policy says."""
        task = self._create_task(options, fn, args, kwargs)
        try:
            offer = self._try_admit(task, None)
            if offer is Admission.ADMITTED:
                return task.future
            self._refuse_if_closed(offer)
            return self._by_policy(task)
        except BaseException:
            self._release_permits(task)
            raise

    def submit_wait(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Admit a call, waiting for a slot as long as its options allow."""
        if on_event_loop():
            # Also when there is a slot: an error that shows up only under load would be found too late.
            raise RuntimeError(blocks_loop(self._pool))
        task = self._create_task(options, fn, args, kwargs)
        try:
            offer = self._try_admit(task, None)
            if offer is Admission.ADMITTED:
                return task.future
            self._refuse_if_closed(offer)
            return self._wait_for_slot(task, math.inf if options.wait is None else options.wait)
        except BaseException:
            self._release_permits(task)
            raise

    def try_submit(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> PoolFuture[Any] | None:
        """Admit a call if there is a slot; None, and nothing counted, if not."""
        task = self._create_task(options, fn, args, {})
        try:
            offer = self._try_admit(task, None)
            if offer is Admission.ADMITTED:
                return task.future
            self._refuse_if_closed(offer)
        except BaseException:
            self._release_permits(task)
            raise
        self._release_permits(task)
        return None

    def slot_count(self) -> int:
        """Return how many tasks the pool can hold, running and waiting."""
        if not self._mark[0]:
            self._enter_child()
        return self._dispatcher.worker_set.max_workers + self._dispatcher.queue_capacity

    async def submit_async(
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> PoolFuture[Any]:
        """Admit a call, suspending the coroutine while there is no slot."""
        task = self._create_task(options, fn, args, kwargs)
        try:
            offer = self._try_admit(task, None)
            if offer is Admission.ADMITTED:
                return task.future
            self._refuse_if_closed(offer)
            self._refuse_nested()
            return await self._suspend(AsyncWaiter(task), task, options.wait)
        except GeneratorExit:
            raise  # it may stand in line still, see `_suspend`
        except BaseException:
            self._release_permits(task)
            raise

    async def _suspend(self, waiter: AsyncWaiter, task: Task, wait: float | None) -> PoolFuture[Any]:
        try:
            offer = self._try_admit(task, waiter)
            if offer is Admission.WAITING:
                async with asyncio.timeout(self._wait_limit(task, wait)):
                    await waiter.future
        except TimeoutError:
            if self._dispatcher.cancel_wait(waiter):
                raise self._out_of_time(task, wait) from None
            offer = Admission.WAITING
        except GeneratorExit:
            # Its event loop is garbage, and this may be the collector, at work in a thread of ours.
            background_thread().call_soon(lambda: self._abandon_wait(task, waiter))
            raise
        except BaseException:
            self._abandon_wait(task, waiter)
            raise
        return self._finish_wait(task, offer, waiter)

    # Steps.

    def _create_task(  # noqa: C901  # a part of it would be one more call for each task
        self, options: TaskOptions, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Task:
        """Make the task and take its permits. From here on it is either admitted or given back."""
        if not self._mark[0]:
            self._enter_child()
        # Written out for what is submitted most: a call of `is_async` would take longer than all the rest.
        function: Any = fn
        if type(function) is not FunctionType:
            if type(function) is MethodType:
                function = function.__func__
            elif type(function) is partial:
                function = function.func
        if type(function) is FunctionType:
            if function.__code__.co_flags & ASYNC_FLAGS:
                raise async_refusal(fn)
        elif not callable(fn):
            raise TypeError(f"fn={shown(fn)} cannot be called: pass the function and then its arguments")
        elif type(fn) is partial and is_async(fn):
            raise async_refusal(fn)
        if self._around is not None:
            fn = AroundCall(self._around, fn, self._around_failed)
        task = Task(fn, args, kwargs, self._task_context(), self._now(), options)
        task.future = PoolFuture(self._runner, task)
        if options.deadline is not None:
            task.expires_at = task.admitted_at + options.deadline
        if self._permit_sources:
            self._acquire_permits(task)
        return task

    def _acquire_permits(self, task: Task) -> None:
        if self._dispatcher.state is not State.OPEN:
            self._release_permits(task)
            raise self._closed()
        try:
            task.permits = acquire_all(self._permit_sources)
        except RejectedError as error:
            self._release_permits(task)
            self._dispatcher.count_rejection(error.reason)
            # The watchdog is to log what is dropped, also where nothing was ever admitted.
            with suppress(RuntimeError):
                self._engine.begin()
            raise

    def _try_admit(self, task: Task, waiter: Waiter | None) -> Admission:
        """Offer the task until there is an answer, starting loops as they are needed."""
        while True:
            offer = self._dispatcher.try_admit(task, waiter)
            if offer is not Admission.NEEDS_WORKER:
                return offer
            # Its being short of stack must not be taken for the system's being short of threads.
            check_stack_depth()
            try:
                self._engine.starter.start_one()
            except RuntimeError as error:
                # The system may be out of threads; loops that are there get to the task in their turn.
                offer = self._dispatcher.try_admit(task, waiter, may_start=False)
                if offer is Admission.NEEDS_WORKER:
                    raise self._backend_unusable(error) from error
                return offer

    def _by_policy(self, task: Task) -> PoolFuture[Any]:
        """Treat a task for which there is no slot as its options or the pool's policy say."""
        if task.options.wait is not None:
            return self._wait_for_slot(task, task.options.wait)
        detail = self._grpc_overload.detail_of(task, self._overload)
        if self._overload == "block":
            return self._wait_for_slot(task, math.inf)
        if self._overload == "reject":
            raise self._full(detail)
        if on_event_loop():
            raise self._would_block()
        check_stack_depth()
        self._runner.run_by_caller(task)
        return task.future

    def _wait_for_slot(self, task: Task, wait: float) -> PoolFuture[Any]:
        self._refuse_nested()
        if on_event_loop():
            raise self._would_block()
        waiter = ThreadWaiter(task)
        try:
            offer = self._try_admit(task, waiter)
            told = offer is not Admission.WAITING or waiter.wait(self._wait_limit(task, wait))
        except BaseException:
            self._abandon_wait(task, waiter)
            raise
        if not told:
            if self._dispatcher.cancel_wait(waiter):
                raise self._out_of_time(task, wait)
            waiter.wait(None)  # it is being told this very moment
        return self._finish_wait(task, offer, waiter)

    def _finish_wait(self, task: Task, offer: Admission, waiter: Waiter) -> PoolFuture[Any]:
        self._refuse_if_closed(offer)
        if offer is Admission.WAITING and not waiter.admitted:
            # The pool closed and has counted the refusal itself.
            raise self._engine.closing.refusal()
        return task.future

    def _abandon_wait(self, task: Task, waiter: Waiter) -> None:
        """Stop waiting for a slot when the caller is gone, whether the task was admitted or not."""
        if self._dispatcher.cancel_wait(waiter):
            self._release_permits(task)
            self._dispatcher.count_rejection(Reason.FULL)
        else:
            task.future.cancel()

    def _wait_limit(self, task: Task, wait: float | None) -> float | None:
        """Return the seconds to wait for a slot: no longer than the task itself may wait."""
        bounds = [wait, task.options.deadline]
        finite = [bound for bound in bounds if bound is not None and math.isfinite(bound)]
        return min(finite, default=None)

    def _release_permits(self, task: Task) -> None:
        """Return the permits of a task that was not admitted; one that was has them until it is settled."""
        admitted = task.prev is not None or task.future.running() or task.future.done()
        if admitted:
            return
        # They refer to each other, and would keep the call's arguments until the garbage collector comes by.
        task.future._task = None  # noqa: SLF001
        release_all(task.permits)

    def refusal(self) -> PoolClosedError:
        """Return what is told of a task that the stop has dropped."""
        return self._engine.closing.refusal()

    # Refusals.

    def _refuse_if_closed(self, offer: Admission) -> None:
        if offer is Admission.CLOSED:
            raise self._closed()

    def _would_block(self) -> RuntimeError:
        self._dispatcher.count_rejection(Reason.FULL)
        return RuntimeError(blocks_loop(self._pool))

    def _refuse_nested(self) -> None:
        """Refuse to wait inside a worker of a full pool: that is how a pool deadlocks itself."""
        if is_inside(self._dispatcher.worker_set.workers):
            raise self._full(_NESTED)

    def _out_of_time(self, task: Task, wait: float | None) -> PoolFullError | TaskExpiredError:
        """Return why a wait for a slot has ended: as long as it was to last, or with the task's deadline."""
        deadline = task.options.deadline
        if deadline is None or (wait is not None and wait < deadline):
            return self._full()
        self._dispatcher.count_expired_in_wait()
        dwell = self._now() - task.admitted_at
        return TaskExpiredError(pool=self._pool, task=task.name, deadline=deadline, dwell=dwell)

    def _full(self, detail: str | None = None) -> PoolFullError:
        self._dispatcher.count_rejection(Reason.FULL)
        with self._dispatcher.lock:
            queued = self._dispatcher.occupancy().queued
        return PoolFullError(
            pool=self._pool,
            queued=queued,
            queue_capacity=self._dispatcher.queue_capacity,
            retry_after=self._engine.retry_after(),
            detail=detail,
        )

    def _closed(self) -> PoolClosedError:
        self._dispatcher.count_rejection(Reason.CLOSED)
        return self._engine.closing.refusal()

    def _backend_unusable(self, error: RuntimeError) -> PoolClosedError:
        """Refuse because the backend takes no more loops: it was shut down or broken from outside."""
        self._dispatcher.count_rejection(Reason.CLOSED)
        if isinstance(error, BrokenExecutor):
            return PoolBrokenError(pool=self._pool, cause=error)
        return self._engine.closing.refusal(
            f"the wrapped executor takes no more work: {said(error)}; stop this pool and build a new one "
            "around a new executor"
        )
