"""Ending one pool: open, draining, stopped, against a deadline, with an exact report.

The work is done by a thread of its own while the caller waits for a bounded time, so that a log
sink or a backend that hangs cannot hold the caller, and so that `stop` may be called from a signal
handler: that runs between two bytecodes of the main thread, perhaps on top of a frame that holds
the pool's lock.
"""

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
from prodpool.concurrency.interrupts import held_here, start_thread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.task.outcomes import Reason, State
from prodpool.telemetry.log_events import task_fields
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
class StopReport:
    """What `InstrumentedPool.stop` did.

    Attributes:
        drained: Whether everything that was queued or running has finished.
        completed: Tasks that finished while the pool drained.
        dropped: Queued tasks that were dropped at the deadline (counted as ``shutdown``).
        abandoned: Names of the tasks that still ran after the deadline.
        elapsed: Seconds it took.
    """

    drained: bool
    completed: int
    dropped: int
    abandoned: tuple[str, ...]
    elapsed: float


class Stopper:
    """Stops one pool, once."""

    def __init__(
        self,
        *,
        pool: str,
        dispatcher: Dispatcher,
        settlement: Settlement,
        workers: Workers,
        start_loops: Callable[[int], None],
        log: PoolLog,
        call_thread: CallThread,
        telemetry_errors: TelemetryErrors,
        flush_logs: Callable[[], None],
        flush_telemetry: Callable[[float, float], object],
        on_stopped: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._settlement = settlement
        self._workers = workers
        self._start_loops = start_loops
        self._log = log
        # For the callbacks of what is dropped or given up. They may hang, and so may the log and the spans.
        self._call_thread = call_thread
        self._telemetry_errors = telemetry_errors
        self._flush_logs = flush_logs
        self._flush_telemetry = flush_telemetry
        self._on_stopped = on_stopped
        # Who does the stopping: the one whose token is in here. A dict, since `setdefault` is atomic.
        self._claim: dict[str, object] = {}
        self._ended = False
        self._cancel_queued = False
        # When the stop was first asked for: infinity until then (seconds of time.monotonic).
        self._began = math.inf
        self._deadline_at = math.inf
        self._closed = SignalSafeEvent()
        self._report_ready = SignalSafeEvent()
        self._done = SignalSafeEvent()
        self._report: StopReport | None = None
        # At interpreter exit a stop with nothing to drain is not worth a line: the streams may be closed.
        self._at_exit = self._silent = self._spoke = False
        # How far the stop has got with what it does after the deadline: tasks dropped, workers given up.
        self._steps = 0

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool = False) -> StopReport:
        """Stop within ``deadline`` seconds; see `InstrumentedPool.stop`. Safe to call again.

        An exception that a signal handler raises in here, at whatever point, leaves a stop that is under
        way or one that `retry` begins.
        """
        now, closed = time.monotonic(), self._closed
        self._cancel_queued |= cancel_queued
        # A later call may shorten the deadline of the first, never prolong it.
        self._deadline_at = min(self._deadline_at, now + deadline)
        self._began = min(self._began, now)
        if self._claim or self._start_thread():
            self._dispatcher.idle_signal.put(None)  # have it look at the new deadline
            if self._wait_until_closed(closed) and wait:
                self._await_report()
        elif not held_here(self._dispatcher.lock):
            # No thread is to be had. Whoever does not wait may be the watchdog: `retry` is for them.
            if wait:
                self._stop_in_this_thread()
            else:
                self._close()
        return self._report or self._provisional(now)

    def stop_here(self, deadline: float, now: float) -> StopReport:
        """Stop in the calling thread: at interpreter exit no thread can be started (3.12 on).

        The deadline counts from ``now`` (seconds of time.monotonic), at which all pools began to drain.

        Raises:
            BaseException: A signal handler's, such as KeyboardInterrupt. It has cut the drain short; what was
                left is dropped or given up by now.
        """
        self._began = min(self._began, now)
        self._deadline_at = min(self._deadline_at, now + deadline)
        self._at_exit = True
        try:
            self._stop_in_this_thread()
        except BaseException:
            self._shorten_deadline(now)
            raise
        return self._report or self._provisional(now)

    def retry(self) -> None:
        """Begin a stop that was asked for and that nobody does.

        No thread was to be had for it, or an exception came between. Called at each tick; takes no lock.
        """
        if self._began < math.inf and not self._claim:
            self._start_thread()

    def forked(self) -> None:
        """Be done with it: in a forked child there is nothing of this pool left to stop."""
        self._claim, self._ended = {"by": object()}, True
        self._closed, self._report_ready, self._done = SignalSafeEvent(), SignalSafeEvent(), SignalSafeEvent()
        for latch in (self._closed, self._report_ready, self._done):
            latch.set()
        self._report = StopReport(drained=True, completed=0, dropped=0, abandoned=(), elapsed=0.0)

    def _wait_until_closed(self, closed: SignalSafeEvent) -> bool:
        """Wait until new tasks are refused; False if the caller is in the way of that.

        That is a signal handler, or a destructor, on top of a frame which holds the pool's lock. It has to
        return for that frame to go on.
        """
        if closed.wait(0.0):
            return True
        return not held_here(self._dispatcher.lock) and closed.wait(math.inf)

    def _await_report(self) -> None:
        """Wait for the report until the deadline, and beyond it as long as the stop gets on."""
        wait, seen = self._deadline_at - time.monotonic() + CANCEL_GRACE + REPORT_GRACE, -1
        while not self._report_ready.wait(wait) and self._steps != seen:
            wait, seen = REPORT_GRACE, self._steps
        # The report is known; the backend's own end may be held up, by the caller for one.
        self._done.wait(self._report_limit() + REPORT_GRACE)

    def _start_thread(self) -> bool:
        """Have a thread of its own do the stopping; False when none is to be had."""
        name = f"prodpool-stop-{self._pool}"
        thread = threading.Thread(target=self._stop_in_own_thread, name=name, daemon=True)
        try:
            start_thread(thread)
        except RuntimeError:
            return False
        return True

    def _stop_in_own_thread(self) -> None:
        with self._telemetry_errors.guard("internal"):
            self._attempt(may_be_late=True)

    def _stop_in_this_thread(self) -> None:
        if not self._attempt(may_be_late=False):
            self._dispatcher.idle_signal.put(None)
            self._await_report()

    def _shorten_deadline(self, now: float) -> None:
        """Finish at once. Further interrupts cannot keep tasks from being settled; the rest they can."""
        self._deadline_at = now
        while True:
            with suppress(KeyboardInterrupt):
                self._stop_in_this_thread()
                return
            if self._dispatcher.state is State.STOPPED:
                return

    def _attempt(self, *, may_be_late: bool) -> bool:
        """Do the stopping, unless somebody else does: False then. After an exception anybody may try again.

        Whoever does the stopping takes the claim, not whoever asks for it: a thread of ours is never
        interrupted by a signal handler. Where it is the caller's thread, it may be between any two steps.
        """
        token = object()
        try:
            if self._claim.setdefault("by", token) is not token:
                return False
            self._run(may_be_late=may_be_late)
        finally:
            # Not a note of who has the claim but the claim itself: such a note may have come to nothing.
            if not self._ended and self._claim.get("by") is token:
                self._give_up()
        return True

    def _give_up(self) -> None:
        """Leave the rest to another attempt. Nobody may wait for this one."""
        latches = self._closed, self._report_ready, self._done
        self._closed, self._report_ready, self._done = SignalSafeEvent(), SignalSafeEvent(), SignalSafeEvent()
        self._claim.clear()
        for latch in latches:
            latch.set()

    def _run(self, *, may_be_late: bool) -> None:
        """Stop the pool. Each step may be done again, in an attempt after one that came to nothing."""
        self._close(may_be_late=may_be_late)
        held = self._workers.owned_threads_or_processes()
        if self._report is None:
            busy = self._finish(self._drain() or self._enforce_deadline())
        else:
            busy = bool(self._dispatcher.retire_workers())
        self._report_ready.set()
        try:
            self._end_backend(held, busy=busy)
        except Exception as error:  # noqa: BLE001  # a backend's own; the pool has stopped all the same
            self._telemetry_errors.report("internal", error)
        self._call_thread.close(self._report_grace())
        self._flush_telemetry(self._report_grace(), self._report_limit())
        # Not before the last line is written: at exit it may be the watchdog that writes it.
        self._on_stopped()
        self._done.set()
        self._ended = True

    def _close(self, *, may_be_late: bool = False) -> None:
        """Refuse new tasks from now on, and tell whoever waits for that before any loop is started."""
        draining = self._dispatcher.state is not State.OPEN
        missing = self._dispatcher.start_draining()
        late = time.monotonic() - self._began
        if may_be_late and late > CANCEL_GRACE and not draining:
            # Held up by a caller that was in the way: the tasks shall have their time all the same.
            self._deadline_at += late
        self._closed.set()
        self._start_loops(missing)

    def _finish(self, drained: bool) -> bool:
        """Let the workers go and make the report; True if some are still busy."""
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
        self._log_event(
            self._log.info, "pool.stopped", **{**asdict(self._report), "abandoned": len(abandoned)}
        )
        return bool(busy)

    def _end_backend(self, held: Sequence[Joinable], *, busy: bool) -> None:
        """Shut the backend down and see what we held of it end."""
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

    def _enforce_deadline(self) -> bool:
        """Drop what is queued, ask what runs to end, and give it a moment; True if all did."""
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
        """Give up on a worker: name what it has, and let nobody wait for its tasks any longer.

        Not what turns out to have finished at the last moment.
        """
        with self._dispatcher.lock:  # its own thread may go on at any moment
            task, started, tasks = worker.task, worker.started, worker.tasks()
            ahead = list(worker.ahead or ())
        abandoned = partial(self._settlement.abandoned, run_callbacks=self._call_thread.call_soon)
        unread = [each for each in ahead if abandoned(each, detail=UNREAD)]
        names = [each.name for each in unread]
        self._steps += 1
        lost = False
        # Innermost first: each of them waits for the one inside it.
        for each in reversed(tasks):
            lost |= abandoned(each, detail=RUNNING)
        if task is None or not (lost or worker in self._dispatcher.worker_set.workers):
            return names
        # Not lost, but not back either: it hangs in a done-callback of a task that has finished.
        name = task.name if lost else f"a done-callback of {task.name}"
        elapsed = 0.0 if started is None else worker.now() - started
        self._log_event(
            self._log.error,
            "task.abandoned",
            **{**task_fields(task), "task": name, "elapsed": elapsed, "stack": worker.stack()},
        )
        return [name, *names]

    def _log_event(self, write: Callable[..., None], event: str, **fields: object) -> None:
        if not self._silent:
            self._spoke = True
            write(event, **fields)

    def _report_limit(self) -> float:
        """Return the seconds left for what has yet to be done when the report is known."""
        return max(0.0, min(self._deadline_at - time.monotonic(), PROCESS_EXIT_TIMEOUT))

    def _report_grace(self) -> float:
        """Return the seconds to wait for what may hang: no longer than the caller of `stop` waits."""
        left = self._deadline_at + CANCEL_GRACE + REPORT_GRACE - time.monotonic()
        return max(MIN_REPORT_GRACE, min(REPORT_GRACE, left))

    def _remaining(self) -> int:
        with self._dispatcher.lock:
            there = self._dispatcher.occupancy()
        return there.queued + there.running

    def _provisional(self, began: float) -> StopReport:
        """Report what is known when the caller's time is up and the stop still goes on behind it."""
        running = [worker.task for worker in list(self._dispatcher.worker_set.workers)]
        return StopReport(
            drained=False,
            completed=0,
            dropped=0,
            abandoned=tuple(task.name for task in running if task is not None),
            elapsed=time.monotonic() - began,
        )
