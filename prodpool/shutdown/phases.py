"""What a stop does, one phase after the other: drain, enforce the deadline, report, end the backend."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from prodpool.concurrency.call_thread import CallThread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.shutdown.report import StopReport
from prodpool.task.outcomes import Reason, State
from prodpool.workers.base import kill

if TYPE_CHECKING:
    from prodpool.execution.settlement import Settlement
    from prodpool.scheduling.dispatcher import Dispatcher
    from prodpool.scheduling.worker import Worker
    from prodpool.telemetry.log_events import PoolLog
    from prodpool.telemetry.telemetry_errors import TelemetryErrors
    from prodpool.workers.base import Joinable, Workers

# Why the outcome of a task is not waited for any longer.
RUNNING = "it still ran when the pool's stop deadline passed"
UNREAD = "its outcome had not been read when the pool's stop deadline passed"
# Seconds that running tasks get after the deadline to notice that they are cancelled.
CANCEL_GRACE = 0.05
# Seconds beyond deadline and grace after which a caller no longer waits for the report.
REPORT_GRACE = 0.5
# Seconds that a log and a tracer get in any case to take what waits for them.
MIN_REPORT_GRACE = 0.1
# Seconds, within the deadline, that idle worker processes may take to end before they are killed, and that
# a log and a tracer which get on may take.
PROCESS_EXIT_TIMEOUT = 10.0
PROGRESS_EVERY = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StopParts:
    """The parts of a pool that its stop deals with.

    Attributes:
        pool: The pool's name.
        start_loops: Starts so many workers.
        call_thread: Makes the callbacks of what is dropped or abandoned; they may hang.
        flush_logs: Writes what the log held back.
        flush_telemetry: Called with the seconds that one call and that all calls may take.
        on_stopped: Called last.
    """

    pool: str
    dispatcher: Dispatcher
    settlement: Settlement
    workers: Workers
    start_loops: Callable[[int], None]
    log: PoolLog
    call_thread: CallThread
    telemetry_errors: TelemetryErrors
    flush_logs: Callable[[], None]
    flush_telemetry: Callable[[float, float], object]
    on_stopped: Callable[[], None]


class StopPhases:
    """The phases of one pool's stop. `Stopper` says which thread goes through them, and when."""

    def __init__(self, parts: StopParts) -> None:
        self._dispatcher = parts.dispatcher
        self._settlement = parts.settlement
        self._workers = parts.workers
        self._start_loops = parts.start_loops
        self._log = parts.log
        self._call_thread = parts.call_thread
        self._telemetry_errors = parts.telemetry_errors
        self._flush_logs = parts.flush_logs
        self._flush_telemetry = parts.flush_telemetry
        self._on_stopped = parts.on_stopped
        self._cancel_queued = False
        # Whether a thread that runs an event loop waits for the stop.
        self._blocks_loop = self._said_that_it_blocks = False
        # When the stop was first asked for: infinity until then (seconds of time.monotonic).
        self._began = math.inf
        self._deadline_at = math.inf
        self._closed = SignalSafeEvent()
        self._report: StopReport | None = None
        # At interpreter exit a stop with nothing to drain is not logged: the streams may be closed.
        self._at_exit = self._silent = self._spoke = False
        # How far the stop has got with what it does after the deadline: tasks dropped, workers given up.
        self._steps = 0

    def _close(self, *, may_be_late: bool = False) -> None:
        """Refuse new tasks from now on, and wake the callers that wait for that before a loop starts."""
        draining = self._dispatcher.state is not State.OPEN
        missing = self._dispatcher.start_draining()
        late = time.monotonic() - self._began
        if may_be_late and late > CANCEL_GRACE and not draining:
            # Held up by a caller that was in the way: the tasks shall have their time all the same.
            self._deadline_at += late
        self._closed.set()
        self._start_loops(missing)

    def _finish(self, drained: bool) -> bool:
        """Retire the workers and make the report; True if some are still busy."""
        dispatcher = self._dispatcher
        busy = dispatcher.retire_workers()
        # A worker that was lost at the last moment has put back what it had not begun.
        self._drop_queued()
        with dispatcher.lock:
            completed_before, dropped_before = dispatcher.ended_at_close
            completed, dropped = dispatcher.counters.finished_and_dropped()
        abandoned = tuple(name for worker in busy for name in self._abandon(worker))
        self._report = StopReport(
            drained=drained and dropped == dropped_before,
            completed=completed - completed_before,
            dropped=dropped - dropped_before,
            abandoned=abandoned,
            elapsed=time.monotonic() - self._began,
        )
        self._flush_logs()
        write = self._log.info if self._report.drained else self._log.warning
        self._log_event(write, "pool.stopped", **{**asdict(self._report), "abandoned": len(abandoned)})
        return bool(busy)

    def _end_backend(self, held: Sequence[Joinable], *, busy: bool) -> None:
        """Shut the backend down and wait for the threads or processes that the pool owned."""
        workers = self._workers
        held = [*held, *(each for each in workers.owned_threads_or_processes() if each not in held)]
        kills = workers.can_kill()
        if busy:
            # First of all, or shutdown() itself may wait for what hangs.
            workers.kill()
        # It is not waited for: the application's own calls in it may take as long as they like.
        workers.shutdown()
        if busy and not kills:
            return
        ends = time.monotonic() + REPORT_GRACE
        if kills and not busy:
            # A process may have something to do at its end, such as to send its last spans.
            ends = max(ends, min(self._deadline_at, time.monotonic() + PROCESS_EXIT_TIMEOUT))
        for each in held:
            each.join(max(0.0, ends - time.monotonic()))
        # By now the backend itself no longer knows its processes.
        left = [each for each in [*held, *workers.owned_threads_or_processes()] if kills and each.is_alive()]
        for each in left:
            kill(each)
        ends = time.monotonic() + REPORT_GRACE
        for each in left:
            each.join(max(0.0, ends - time.monotonic()))

    def _drain(self) -> bool:
        """Wait until nothing is queued or running; False at the deadline."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            there = dispatcher.occupancy()
            unchanged = dispatcher.counters.finished_and_dropped() == dispatcher.ended_at_close
        idle = unchanged and there.queued == there.running == 0
        self._silent = self._at_exit and idle and not self._spoke
        self._log_event(self._log.info, "pool.draining", queue_depth=there.queued, running=there.running)
        next_progress = self._began + PROGRESS_EVERY
        while True:
            now = time.monotonic()
            if dispatcher.is_idle():
                return True
            if self._blocks_loop and not self._said_that_it_blocks:
                self._say_that_it_blocks()
            if now >= self._deadline_at:
                return False
            if now >= next_progress:
                next_progress += PROGRESS_EVERY
                self._log_event(
                    self._log.info,
                    "pool.drain_progress",
                    remaining=self._remaining(),
                    elapsed=now - self._began,
                )
            if self._cancel_queued:
                self._drop_queued()
            wait = min(self._deadline_at, next_progress) - now
            self._wait_for_change(wait)

    def _say_that_it_blocks(self) -> None:
        with self._dispatcher.lock:
            there = self._dispatcher.occupancy()
        if not (there.queued or there.running):
            return  # a worker is still in the callbacks of its last task, such as the one that woke the loop
        self._said_that_it_blocks = True
        # A line and no warning: where warnings are errors, that would break off the very stop.
        self._log_event(
            self._log.warning,
            "pool.stop_blocks_loop",
            queue_depth=there.queued,
            running=there.running,
            instead="await pool.stop_async() or 'async with pool'",
        )

    def _enforce_deadline(self) -> bool:
        """Drop the queued tasks, ask the running ones to end, and wait a moment; True if all ended."""
        dispatcher = self._dispatcher
        self._log_event(
            self._log.warning,
            "pool.drain_deadline",
            remaining=self._remaining(),
            elapsed=time.monotonic() - self._began,
        )
        self._drop_queued()
        for worker in list(dispatcher.worker_set.workers):
            worker.request_cancel()
        ends = time.monotonic() + CANCEL_GRACE
        while not dispatcher.is_idle() and (left := ends - time.monotonic()) > 0:
            self._wait_for_change(left)
        return dispatcher.is_idle()

    def _wait_for_change(self, timeout: float) -> None:
        with suppress(queue.Empty):
            self._dispatcher.idle_signal.get(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))

    def _drop_queued(self) -> None:
        for task in self._dispatcher.drop_queued(Reason.SHUTDOWN):
            self._settlement.dropped(task, self._call_thread.call_soon)
            self._steps += 1

    def _abandon(self, worker: Worker) -> list[str]:
        """Abandon a busy worker: end the futures of its tasks, and return their names.

        Not what turns out to have finished at the last moment.
        """
        with self._dispatcher.lock:  # its own thread may go on at any moment
            task, started, tasks = worker.task, worker.started, worker.tasks()
            ahead = list(worker.ahead or ())
        abandoned = partial(self._settlement.abandoned, run_callbacks=self._call_thread.call_soon)
        unread = [each for each in ahead if abandoned(each, detail=UNREAD)]
        names = [each.name for each in unread]
        self._steps += 1
        # Innermost first: each of them waits for the one inside it.
        lost = [each.name for each in reversed(tasks) if abandoned(each, detail=RUNNING)][::-1]
        if task is None or not (lost or worker in self._dispatcher.worker_set.workers):
            return names
        # Not lost, but not back either: it hangs in a done-callback of a task that has finished.
        name = task.name if lost else f"a done-callback of {task.name}"
        elapsed = 0.0 if started is None else worker.now() - started
        self._log_event(self._log.task_abandoned, task, name, elapsed=elapsed, stack=worker.stack())
        return [*(lost or [name]), *names]

    def _log_event(self, write: Callable[..., None], *args: object, **fields: object) -> None:
        if not self._silent:
            self._spoke = True
            write(*args, **fields)

    def _report_limit(self) -> float:
        """Return the seconds left for the rest of the stop once the report is known."""
        return max(0.0, min(self._deadline_at - time.monotonic(), PROCESS_EXIT_TIMEOUT))

    def _report_grace(self) -> float:
        """Return the seconds to wait for calls that may hang: no longer than the caller of `stop` waits."""
        left = self._deadline_at + CANCEL_GRACE + REPORT_GRACE - time.monotonic()
        return max(MIN_REPORT_GRACE, min(REPORT_GRACE, left))

    def _remaining(self) -> int:
        with self._dispatcher.lock:
            there = self._dispatcher.occupancy()
        return there.queued + there.running
