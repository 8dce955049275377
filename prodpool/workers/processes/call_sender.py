"""Sends calls to worker processes and settles their results."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from prodpool.execution.runner import Runner
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.task.task import Task
from prodpool.text import type_name
from prodpool.workers.in_worker.frames import OUTCOME, Frame, Kind, Payload, frame
from prodpool.workers.processes.connection import WorkerConnection
from prodpool.workers.processes.process_template import ProcessTemplate
from prodpool.workers.processes.remote_worker import RemoteWorker
from prodpool.workers.processes.timeouts import TimeoutEnforcer
from prodpool.workers.serialization import CallSerializer, task_info


class CallSender:
    """Sends the tasks of one pool to its worker processes and settles their outcomes.

    Used by the thread of each worker, for that one.

    Args:
        pool: The pool's name.
        template: What a worker process is made of.
        prefetch: Tasks that are sent ahead in all; None for as many as are done soon.
        context_vars: Names of the context variables that travel with each task.
        dispatcher: Who gives workers their tasks.
        runner: What settles a task.
        limits: Kills the process of a task that runs too long.
        now: The pool's clock.
        start_loops: Starts so many more workers, or as many as there can be.
        renew: Starts another process for a worker whose own has made as many calls as it may; False if there
            is to be none.
    """

    def __init__(
        self,
        *,
        pool: str,
        template: ProcessTemplate,
        prefetch: int | None,
        context_vars: Sequence[str],
        dispatcher: Dispatcher,
        runner: Runner,
        limits: TimeoutEnforcer,
        now: Callable[[], float],
        renew: Callable[[RemoteWorker], bool],
        start_loops: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._most_calls = template.most_tasks
        self._fixed_prefetch = prefetch
        self._serializer = CallSerializer(template.dumps, context_vars)
        self._dispatcher = dispatcher
        self._runner = runner
        self._limits = limits
        self._now = now
        self._renew = renew
        self._start_loops = start_loops

    def send_and_settle(self, worker: RemoteWorker, task: Task) -> Task | None:
        """Send the worker's task if it was not, and settle it when its outcome is there; return the next.

        Raises:
            EOFError, OSError: The process has gone, or is not to be trusted.
        """
        if not worker.sent:
            if self._runner.has_expired(task, self._now()):
                return self._runner.expire(worker, task)
            if worker.timed_out or (self._has_made_all_calls(worker) and not self._renew(worker)):
                raise EOFError  # it was killed just when its last task had ended; or there is to be no other
            message = task.packed or self._pack(task)
            if isinstance(message, BaseException):
                return self._settle_unsent(worker, task, message)
            try:
                # From here on, since a large call takes a while to arrive.
                self._limits.begin(worker, task.options.timeout)
            except RuntimeError as error:  # no thread to be had
                return self._settle_unsent(worker, task, error)
            self._send_first(worker, task, message)
        elif task.cancel_requested:
            # Asked for while the process had not begun it.
            worker.forward_cancel(task)
        self._send_ahead(worker)
        value, failure, times = self._wait_for_result(worker, task)
        if worker.ahead and self._dispatcher.paused:
            self._requeue_and_discard(worker)
        if times is None:
            following = self._runner.expire(worker, task)
        else:
            following = self._runner.settle(worker, task, *times, value, failure)
        if following is not None and worker.sent:
            worker.started = self._now()
        return following

    def _settle_unsent(self, worker: RemoteWorker, task: Task, error: BaseException) -> Task | None:
        now = self._now()
        return self._runner.settle(worker, task, now, now, None, error)

    # Sending.

    def _pack(self, task: Task) -> bytes | BaseException:
        """Return the packed call, or the error that says why it cannot be sent."""
        now = self._now()
        try:
            (call,) = self._serializer.pack(self._pool, task)
            info = task_info(task, now)
            # As a plain tuple: a worker that has to look up a class for each call is slower.
            head = pickle.dumps((task.name, self._runner.trace_context(task, now), info and tuple(info)))
        except BaseException as error:  # noqa: BLE001  # a __reduce__ may raise anything
            return error
        return b"".join((len(head).to_bytes(4, "little"), head, call))

    def _send_first(self, worker: RemoteWorker, task: Task, message: bytes) -> None:
        """Send a call that the process is to begin at once."""
        connection = worker.connection
        assert connection is not None  # noqa: S101
        while not self._record_sent(worker, [(task, len(message))]):
            connection.send_discard()
            self._wait_until_discarded(connection)
        task.packed = None
        # Before it is sent: from then on it may have begun.
        worker.started = self._now()
        if not connection.send(frame(Kind.CALL, worker.answered + 1, message)):
            # It died while it had nothing to do.
            with worker.lock:
                worker.forget_sent(connection.revoke(1))
            raise EOFError
        if task.cancel_requested:
            connection.cancel(worker.answered + 1)

    def _record_sent(self, worker: RemoteWorker, calls: Sequence[tuple[Task, int]]) -> bool:
        """Note that calls of so many bytes are sent now; False if others have to be thrown away first."""
        connection = worker.connection
        assert connection is not None  # noqa: S101
        # Under the lock, so that a thread that withdraws calls sees either none of this or all.
        with worker.lock:
            if connection.discarding:
                return False
            for task, size in calls:
                worker.note_sent(task, size)
            connection.add_credits(len(calls))
            return True

    def _wait_until_discarded(self, connection: WorkerConnection) -> None:
        message = connection.receive()
        if message is not None:
            connection.discarding = message.kind != Kind.DISCARDED

    def _send_ahead(self, worker: RemoteWorker) -> None:
        """Send more calls, while tasks are short and have to wait."""
        connection, ahead = worker.connection, worker.ahead
        assert connection is not None  # noqa: S101
        assert ahead is not None  # noqa: S101
        if connection.discarding or not self._dispatcher.queue.length:
            return
        most = self._max_ahead(worker)
        if 2 * len(ahead) > most or not most or (worker.task and worker.task.options.timeout is not None):
            return
        with self._dispatcher.lock:
            self._dispatcher.assign_ahead(worker, most - len(ahead))
            with worker.lock:
                unsent = list(islice(ahead, len(ahead) - worker.unsent(), None))
                room, withdrawals = worker.bytes_left_ahead(), worker.withdrawals
        calls: list[tuple[Task, int]] = []
        messages: list[bytes] = []
        for task in unsent:
            packed = task.packed = task.packed or self._pack(task)
            if isinstance(packed, BaseException) or len(packed) > room:
                break  # it is sent, or refused, when it is the first
            room -= len(packed)
            calls.append((task, len(packed)))
            messages.append(packed)
        with worker.lock:
            # While these were packed, others may have taken them back.
            if withdrawals != worker.withdrawals or not self._record_sent(worker, calls):
                return
            first = worker.calls - len(calls) + 1
        if len(calls) < len(unsent):
            self._start_loops(self._dispatcher.requeue_ahead(worker, sent=False))
        if calls:
            connection.send(b"".join(frame(Kind.CALL, first + at, each) for at, each in enumerate(messages)))

    def _max_ahead(self, worker: RemoteWorker) -> int:
        if self._fixed_prefetch is None:
            most = worker.prefetch.ahead()
        else:
            share = -(-self._fixed_prefetch // max(1, self._dispatcher.workers()))
            assert worker.ahead is not None  # noqa: S101
            most = min(share, self._fixed_prefetch - self._dispatcher.worker_set.ahead + len(worker.ahead))
        if self._most_calls is not None:
            most = min(most, self._most_calls - worker.calls + len(worker.sent) - 1)
        return most

    def requeue_ahead(self, worker: RemoteWorker) -> None:
        """Put back into the queue what waits behind a task that takes its time; from any thread."""
        self._start_loops(self._dispatcher.requeue_ahead(worker))
        self._runner.settlement.drop_requeued()

    def _requeue_and_discard(self, worker: RemoteWorker) -> None:
        """Do so, and have the process throw it away."""
        self.requeue_ahead(worker)
        if worker.connection is not None:
            worker.connection.send_discard()

    def _has_made_all_calls(self, worker: RemoteWorker) -> bool:
        most = self._most_calls
        return most is not None and worker.calls >= most

    # Outcomes.

    def _wait_for_result(
        self, worker: RemoteWorker, task: Task
    ) -> tuple[Any, BaseException | None, tuple[float, float] | None]:
        """Wait for the outcome of a call; return it and when it began and ended, None if it has expired."""
        answer = self._receive_result(worker)
        if task.options.timeout is not None:
            self._limits.end(worker)
        if answer.kind != Kind.RESULT or answer.number != worker.answered + 1:
            worker.distrusted = True
            raise EOFError(f"worker process {worker.process.pid} answers out of turn")
        began, over, payload, length = OUTCOME.unpack_from(answer.body)
        at = OUTCOME.size + length
        body = memoryview(answer.body)
        value, failure = self._load(task, payload, body[at:], bytes(body[OUTCOME.size : at]))
        worker.note_answered()
        if payload == Payload.EXPIRED:
            return None, None, None
        offset = self._now() - time.monotonic()
        worker.prefetch.add(over - began)
        return value, failure, (max(began + offset, task.admitted_at), over + offset)

    def _receive_result(self, worker: RemoteWorker) -> Frame:
        connection = worker.connection
        assert connection is not None  # noqa: S101  # `WorkerStarter` opened it
        while True:
            answer = connection.receive(briefly=bool(worker.ahead))
            if answer is None:
                self._requeue_and_discard(worker)
            elif answer.kind == Kind.DISCARDED:
                connection.discarding = False
            elif answer.kind == Kind.TELEMETRY_ERROR:
                self._runner.telemetry_failed([pickle.loads(answer.body)])  # noqa: S301  # from our own worker
            else:
                return answer

    def _load(
        self, task: Task, payload: int, data: memoryview, stack: bytes
    ) -> tuple[Any, BaseException | None]:
        """Return the result, or the exception, that a worker has sent."""
        if payload == Payload.EXPIRED:
            return None, None
        try:
            loaded = pickle.loads(data)  # noqa: S301  # from our own worker
        except BaseException as error:  # noqa: BLE001  # a __setstate__ may raise anything
            return None, self._serializer.unloadable(self._pool, task, error)
        if payload != Payload.ERROR:
            return loaded, None
        if not isinstance(loaded, BaseException):
            odd = TypeError(f"an exception that loads as {type_name(loaded)}")
            return None, self._serializer.unloadable(self._pool, task, odd)
        # Not by assignment: an exception may be a frozen dataclass.
        BaseException.__setattr__(loaded, "__cause__", RemoteTraceback(stack.decode(errors="replace")))
        return None, loaded
