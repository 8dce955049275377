"""What the watchdog does for one pool at each tick."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from prodpool.concurrency.background_thread import Wake, background_thread
from prodpool.concurrency.call_thread import CallThread
from prodpool.execution.settlement import Settlement
from prodpool.scheduling.dispatcher import Dispatcher
from prodpool.scheduling.worker import Worker
from prodpool.task.outcomes import State, count_refused
from prodpool.telemetry.log_events import PoolLog
from prodpool.telemetry.telemetry_errors import TelemetryErrors

# Seconds between two summaries of drops, and over which the mean duration for retry_after is taken.
SUMMARY_EVERY = 10.0


class PoolWatchdog:
    """Logs hung tasks and drops, and drops expired tasks, even while all workers hang."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        pool: str,
        settlement: Settlement,
        log: PoolLog,
        telemetry_errors: TelemetryErrors,
        hung_after: float,
        now: Callable[[], float],
        start_loops: Callable[[int], None],
        refresh_workers: Callable[[], None],
        retry_failed: Callable[[], None],
        repair_workers: Callable[[Callable[[Callable[[], None]], object]], None],
        call_thread: CallThread,
        on_finished: Callable[[], None],
    ) -> None:
        self.interval = min(1.0, max(0.02, hung_after / 10))
        self._dispatcher = dispatcher
        self._pool = pool
        self._settlement = settlement
        self._log = log
        self._telemetry_errors = telemetry_errors
        self._hung_after = hung_after
        self._now = now
        self._start_loops = start_loops
        self._refresh_workers = refresh_workers
        self._retry_failed = retry_failed
        self._repair_workers = repair_workers
        self._call_thread = call_thread
        self._on_finished = on_finished
        self._summarised = dict.fromkeys(dispatcher.counters.dropped, 0)
        self._summary_at = float("-inf")
        # Submitted, whether admitted or not, when the last line was written or there was nothing to write.
        self._offered = 0
        # (time, tasks finished, seconds they took) at earlier ticks, the oldest SUMMARY_EVERY ago.
        self._history: deque[tuple[float, int, float]] = deque()
        # The wake of the watchdog's thread that was observed last.
        self._wake: Wake | None = None

    def tick(self) -> None:
        """Do one round. Never raises."""
        try:
            self._observe_delay()
            self._refresh_workers()
            self._retry_failed()
            self._warn_of_hung()
            # Another thread makes their callbacks: one that hangs must not stop the watchdog of all pools.
            self._settlement.drop_expired(self._call_thread.call_soon)
            self.repair()
            self.summarise_drops()
            self._log.flush_suppressed()
            self._record_sample()
            if self._dispatcher.state is State.STOPPED and not self._dispatcher.worker_set.workers:
                self._on_finished()
        except Exception as error:  # noqa: BLE001  # the watchdog must outlive its own faults
            self._telemetry_errors.report("watchdog", error)

    def repair(self) -> None:
        """Finish what interrupts and failed allocations have left undone; at each tick, or when asked."""
        self._repair_workers(self._call_thread.call_soon)
        self._start_loops(self._dispatcher.repair())
        self._settlement.left_over()

    def summarise_drops(self, *, final: bool = False) -> None:
        """Write ``pool.dropping`` if anything was dropped since the last time, at most every 10 s."""
        now = self._now()
        if now < self._summary_at and not final:
            return
        counters = self._dispatcher.counters
        with self._dispatcher.lock:
            dropped = dict(counters.dropped)
            offered = counters.submitted + count_refused(dropped)
        news = {reason: count - self._summarised[reason] for reason, count in dropped.items()}
        total = sum(news.values())
        lately, self._offered = offered - self._offered, offered
        if total:
            self._summarised = dropped
            self._summary_at = now + SUMMARY_EVERY
            by_reason = {reason.value: count for reason, count in news.items() if count}
            self._log.warning("pool.dropping", dropped=total, offered=lately, **by_reason)

    def flush_logs(self) -> None:
        """Write what was held back of the log; the pool is about to stop."""
        self.summarise_drops(final=True)
        self._log.flush_suppressed()

    def mean_duration(self) -> float | None:
        """Return the mean seconds of the tasks finished lately; None when none has."""
        with self._dispatcher.lock:
            histogram = self._dispatcher.counters.duration
            count, total = sum(histogram.counts), histogram.total
        if self._history and count > self._history[0][1]:
            _, count_then, total_then = self._history[0]
            return (total - total_then) / (count - count_then)
        return total / count if count else None

    def dump(self) -> str:
        """Return what every worker does right now: task, for how long, and the stack."""
        self._refresh_workers()
        now = self._now()
        with self._dispatcher.lock:
            there = self._dispatcher.occupancy()
            state = self._dispatcher.state
            workers = [one for one in self._dispatcher.worker_set.workers if one.busy_since() is not None]
        head = (
            f"pool {self._pool!r} {state.value}: {there.running} of {self._dispatcher.workers()} "
            f"workers busy, {there.queued} of {self._dispatcher.queue_capacity} waiting places taken"
        )
        workers.sort(key=lambda worker: worker.busy_since() or now)
        return "\n\n".join([head, *(self._describe(worker, now) for worker in workers)])

    def _describe(self, worker: Worker, now: float) -> str:
        # The task may end meanwhile: then the next one's name goes with its stack, or none with it.
        activity = worker.activity()
        if activity is None:
            return f"(just ended) in {worker.location()}"
        names = " which waits for ".join(activity.names) or "(just ended)"
        elapsed = max(0.0, now - activity.since)
        return f"{names}, for {elapsed:.3g} s in {activity.location}\n{activity.stack}"

    def _observe_delay(self) -> None:
        """Count the newest sample of how late the thread wakes, which is one for all pools, once."""
        wake = background_thread().last_wake
        if wake is not None and wake is not self._wake:
            with self._dispatcher.lock:
                self._dispatcher.counters.scheduling_delay.observe(wake.delay)
            self._wake = wake

    def _record_sample(self) -> None:
        now = self._now()
        with self._dispatcher.lock:
            histogram = self._dispatcher.counters.duration
            self._history.append((now, sum(histogram.counts), histogram.total))
        while len(self._history) > 1 and self._history[1][0] <= now - SUMMARY_EVERY:
            self._history.popleft()

    def _warn_of_hung(self) -> None:
        now = self._now()
        for worker in list(self._dispatcher.worker_set.workers):
            since = worker.busy_since()
            if since is None or now - since < self._hung_after:
                worker.next_warning = None
            elif now - since >= (worker.next_warning or self._hung_after):
                worker.next_warning = 2 * max(now - since, self._hung_after)
                if worker.remote:
                    # Its process is asked for its stack, and waited for if it does not answer.
                    self._call_thread.call_soon(partial(self._warn, worker, since, now - since))
                else:
                    self._warn(worker, since, now - since)

    def _warn(self, worker: Worker, since: float, elapsed: float) -> None:
        activity = worker.activity()
        # Without a lock the task may have ended meanwhile, and the stack be another's.
        if activity is None or not activity.tasks or worker.busy_since() != since:
            return
        task, name = activity.tasks[-1], activity.names[-1]
        self._log.task_still_running(task, name, elapsed=elapsed, stack=activity.stack)
