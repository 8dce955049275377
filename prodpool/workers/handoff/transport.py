"""How a call is sent to an executor of another kind, and how its result is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from prodpool.execution.runner import Runner
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.task.task import Task
from prodpool.workers.base import Capabilities
from prodpool.workers.handoff.backend_worker import BackendWorker
from prodpool.workers.handoff.local_call import LocalCall
from prodpool.workers.in_worker.call import CallHeader, CallResult, this_host
from prodpool.workers.serialization import CallSerializer, task_info


class TimedResult(NamedTuple):
    """What came of a task; ``started`` and ``ended`` are seconds of the pool's clock."""

    started: float
    ended: float
    value: Any
    failure: BaseException | None


class Transport:
    """Sends the tasks of one pool, and reads what came of them.

    Args:
        pool: The pool's name.
        abilities: What the backend can do.
        context_vars: Names of the context variables that travel too.
        runner: Begins the span of a task, and is told of what failed around it.
        now: The pool's clock.
    """

    def __init__(
        self,
        pool: str,
        abilities: Capabilities,
        *,
        context_vars: Sequence[str],
        runner: Runner,
        now: Callable[[], float],
    ) -> None:
        self._pool = pool
        self.submit = abilities.submit
        self._serializer = CallSerializer(abilities.dumps, context_vars, abilities.result_dumps)
        self._pickles = abilities.dumps is not None
        self._runner = runner
        self._now = now

    def pack(self, task: Task) -> tuple[Any, ...]:
        """Return the packed call.

        Raises:
            UnpicklableError: Something in it does not pickle; the message says what.
            BaseException: What else a ``__reduce__`` raised.
        """
        return self._serializer.pack(self._pool, task)

    def send(self, backend: Any, worker: BackendWorker, task: Task, call: tuple[Any, ...]) -> Future[Any]:
        """Hand a packed call over to ``backend`` and return the future of its `CallResult`.

        Raises:
            UnpicklableError: The backend cannot carry the call; the message says what in it.
            BaseException: What else its ``submit`` raises.
        """
        sent_at = worker.sent_at
        trace_context = self._runner.trace_context(task, sent_at)
        header = CallHeader(self._pool, task.name, trace_context, task_info(task, sent_at))
        try:
            if self._pickles:
                return self.submit(backend, self._serializer.caller, header, *call)
            return self.submit(backend, LocalCall(worker, task, header, call))
        except Exception as error:
            blamed = self._serializer.as_pickling_error(self._pool, task, error)
            if blamed is None:
                raise
            raise blamed from error

    def read(self, worker: BackendWorker, task: Task, outcome: CallResult) -> TimedResult:
        """Unpack the result of the worker's task, with the times of its run by the pool's clock."""
        if outcome.telemetry_errors:
            self._runner.telemetry_failed(outcome.telemetry_errors)
        started, ended = self._times(worker, outcome)
        try:
            value, failure = self._serializer.unpack(outcome)
        except BaseException as error:  # noqa: BLE001  # a __setstate__ may raise anything
            value, failure = None, self._serializer.unloadable(self._pool, task, error)
        if failure is not None and outcome.stack is not None:
            # Not by assignment: an exception may be a frozen dataclass.
            BaseException.__setattr__(failure, "__cause__", RemoteTraceback(outcome.stack))
        return TimedResult(started, ended, value, failure)

    def _times(self, worker: BackendWorker, outcome: CallResult) -> tuple[float, float]:
        now = self._now()
        if outcome.host != this_host():
            # Its clock is another: only the length that it tells can be used.
            return max(worker.sent_at, now - max(0.0, outcome.ended - outcome.started)), now
        offset = now - time.monotonic()
        started = min(max(worker.sent_at, outcome.started + offset), now)
        return started, min(max(started, outcome.ended + offset), now)
