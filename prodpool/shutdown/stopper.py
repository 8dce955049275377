"""Ending one pool: open, draining, stopped, against a deadline, with an exact report.

The work is done by a thread of its own while the caller waits for a bounded time, so that a log
sink or a backend that hangs cannot hold the caller, and so that `stop` may be called from a signal
handler: that runs between two bytecodes of the main thread, perhaps on top of a frame that holds
the pool's lock.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress

from prodpool.concurrency.event_loop import on_event_loop
from prodpool.concurrency.interrupts import held_here, start_thread
from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.shutdown import phases
from prodpool.shutdown.phases import StopParts, StopPhases
from prodpool.shutdown.report import StopReport
from prodpool.task.outcomes import State


class Stopper(StopPhases):
    """Stops one pool, once."""

    def __init__(self, parts: StopParts) -> None:
        super().__init__(parts)
        self._pool = parts.pool
        # Who does the stopping: the one whose token is in here. A dict, since `setdefault` is atomic.
        self._claim: dict[str, object] = {}
        self._ended = False
        self._report_ready = SignalSafeEvent()
        self._done = SignalSafeEvent()

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool = False) -> StopReport:
        """Stop within ``deadline`` seconds; see `InstrumentedPool.stop`. Safe to call again.

        An exception that a signal handler raises in here, at whatever point, leaves a stop that is under
        way or one that `retry` begins.
        """
        now, closed = time.monotonic(), self._closed
        self._blocks_loop |= wait and on_event_loop()
        self._cancel_queued |= cancel_queued
        # A later call may shorten the deadline of the first, never prolong it.
        self._deadline_at = min(self._deadline_at, now + deadline)
        self._began = min(self._began, now)
        if self._claim or self._start_thread():
            self._dispatcher.idle_signal.put(None)  # have it look at the new deadline
            if self._wait_until_closed(closed) and wait:
                self._await_report()
        elif not held_here(self._dispatcher.lock):
            # There is no thread for it. A caller that does not wait may be the watchdog, which calls `retry`.
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
        """Begin a stop that was asked for and is not under way.

        No thread was to be had for it, or an exception came between. Called at each tick; takes no lock.
        """
        if self._began < math.inf and not self._claim:
            self._start_thread()

    def forked(self) -> None:
        """Count the stop as done: a forked child has nothing of this pool left to stop."""
        self._claim, self._ended = {"by": object()}, True
        self._closed, self._report_ready, self._done = SignalSafeEvent(), SignalSafeEvent(), SignalSafeEvent()
        for event in (self._closed, self._report_ready, self._done):
            event.set()
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
        wait, seen = self._deadline_at - time.monotonic() + phases.CANCEL_GRACE + phases.REPORT_GRACE, -1
        while not self._report_ready.wait(wait) and self._steps != seen:
            wait, seen = phases.REPORT_GRACE, self._steps
        # The report is known; the backend's own end may be held up, by the caller for one.
        self._done.wait(self._report_limit() + phases.REPORT_GRACE)

    def _start_thread(self) -> bool:
        """Start a thread that stops the pool; False when the system has none to give."""
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
        """Finish at once. Further interrupts cannot keep tasks from being settled; they can end the rest."""
        self._deadline_at = now
        while True:
            with suppress(KeyboardInterrupt):
                self._stop_in_this_thread()
                return
            if self._dispatcher.state is State.STOPPED:
                return

    def _attempt(self, *, may_be_late: bool) -> bool:
        """Stop the pool, unless another thread does: False then. After an exception any thread may try again.

        The thread that stops the pool takes the claim, not the one that asks for it: no signal handler
        interrupts a thread of ours. Where it is the caller's thread, one may come between any two steps.
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
        """Leave the rest to another attempt, and wake the callers that wait for this one."""
        events = self._closed, self._report_ready, self._done
        self._closed, self._report_ready, self._done = SignalSafeEvent(), SignalSafeEvent(), SignalSafeEvent()
        self._claim.clear()
        for event in events:
            event.set()

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
        # Not before the last line is written: at exit it may be the watchdog that writes that line.
        self._on_stopped()
        self._done.set()
        self._ended = True

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
