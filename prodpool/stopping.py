"""Ending one pool: open, draining, stopped, against a deadline, with an exact report.

The work is done by a thread of its own while the caller waits for a bounded time, so that a log
sink or a backend that hangs cannot hold the caller, and so that `stop` may be called from a signal
handler: that runs between two bytecodes of the main thread, perhaps on top of a frame that holds
the pool's lock.
"""

from __future__ import annotations

import contextvars
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prodpool.aside import Aside
from prodpool.latch import Latch
from prodpool.telemetry.logs import about
from prodpool.vocabulary import Reason
from prodpool.workers.base import kill

if TYPE_CHECKING:
    from prodpool.dispatch import Dispatcher
    from prodpool.execution import Runner
    from prodpool.telemetry.logs import PoolLog
    from prodpool.worker import Worker
    from prodpool.workers.base import Joinable, Workers

# Seconds that running tasks get after the deadline to notice that they are cancelled.
GRACE = 0.05
# Seconds beyond deadline and grace after which a caller no longer waits for the report.
PATIENCE = 0.5
# Seconds, within the deadline, that idle worker processes may take to end before they are killed.
LAST_WORDS = 10.0
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
        runner: Runner,
        workers: Workers,
        start_loops: Callable[[int], None],
        log: PoolLog,
        before_last_word: Callable[[], None],
        on_stopped: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._runner = runner
        self._workers = workers
        self._start_loops = start_loops
        self._log = log
        self._before_last_word = before_last_word
        self._on_stopped = on_stopped
        # A lock taken once and never given back: the first to take it does the stopping.
        self._claim = threading.Lock()
        self._cancel_queued = False
        self._began = 0.0
        self._deadline_at = float("inf")
        self._closed = Latch()
        self._known = Latch()
        self._done = Latch()
        self._report: StopReport | None = None
        self._aside = Aside(f"prodpool-stop-log-{pool}")
        # Of what is dropped or given up. They may hang, and the log is still to be written.
        self._callbacks = Aside(f"prodpool-stop-callbacks-{pool}")
        # How far the stop has got with what it does after the deadline: tasks dropped, workers given up.
        self._steps = 0

    def stop(self, deadline: float, *, wait: bool, cancel_queued: bool = False) -> StopReport:
        """Stop within ``deadline`` seconds; see `InstrumentedPool.stop`. Safe to call again."""
        now = time.monotonic()
        self._cancel_queued |= cancel_queued
        # A later call may shorten the deadline of the first, never prolong it.
        self._deadline_at = min(self._deadline_at, now + deadline)
        if self._claim.acquire(blocking=False):
            self._began = now
            self._launch()
        else:
            self._dispatcher.stirred.put(None)  # have it look at the new deadline
        if self._begun() and wait:
            self._await_report()
        return self._report or self._provisional(now)

    def stop_here(self, deadline: float, now: float) -> StopReport:
        """Stop in the calling thread: at interpreter exit no thread can be started (3.12 on).

        The deadline counts from ``now`` (seconds of time.monotonic), at which all pools began to drain.

        Raises:
            KeyboardInterrupt: Ctrl-C has cut the drain short; what was left is dropped or given up by now.
        """
        self._deadline_at = min(self._deadline_at, now + deadline)
        if self._claim.acquire(blocking=False):
            self._began = now
            try:
                self._run()
            except KeyboardInterrupt:
                self._deadline_at = now
                self._run()
                raise
        else:
            self._dispatcher.stirred.put(None)
            self._await_report()
        return self._report or self._provisional(now)

    def forked(self) -> None:
        """Be done with it: in a forked child there is nothing of this pool left to stop."""
        self._claim, self._closed, self._known, self._done = threading.Lock(), Latch(), Latch(), Latch()
        self._claim.acquire()
        for latch in (self._closed, self._known, self._done):
            latch.open()
        self._report = StopReport(drained=True, completed=0, dropped=0, abandoned=(), elapsed=0.0)

    def _begun(self) -> bool:
        """Wait until new tasks are refused; False if the caller is in the way of that.

        That is a signal handler on top of a frame of ours which holds the pool's lock, held for
        microseconds otherwise. It has to return for that frame to go on.
        """
        if not _on_top_of_ours():
            return self._closed.wait(math.inf)
        lock = self._dispatcher.lock
        while not self._closed.wait(0.1):
            if not lock.acquire(timeout=0.1):
                return False
            lock.release()
        return True

    def _await_report(self) -> None:
        """Wait for the report until the deadline, and beyond it as long as the stop gets on."""
        wait, seen = self._deadline_at - time.monotonic() + GRACE + PATIENCE, -1
        while not self._known.wait(wait) and self._steps != seen:
            wait, seen = PATIENCE, self._steps
        # The report is known; the backend's own end may be held up, by the caller for one.
        self._done.wait(max(0.0, min(self._deadline_at - time.monotonic(), LAST_WORDS)) + PATIENCE)

    def _launch(self) -> None:
        thread = threading.Thread(target=self._run_late, name=f"prodpool-stop-{self._pool}", daemon=True)
        try:
            # An empty context: the thread must not keep the caller's span alive.
            contextvars.Context().run(thread.start)
        except RuntimeError:
            self._run()

    def _run_late(self) -> None:
        self._start_loops(self._dispatcher.close())
        late = time.monotonic() - self._began
        if late > GRACE:
            # Held up by a caller that was in the way: the tasks shall have their time all the same.
            self._deadline_at += late
        self._run()

    def _run(self) -> None:
        try:
            self._start_loops(self._dispatcher.close())
            self._closed.open()
            held = self._workers.holding()
            drained = self._drain() or self._break_off()
            busy = self._finish(drained)
            self._known.open()
            self._end_backend(held, busy=busy)
            self._callbacks.finish(PATIENCE)
            self._aside.finish(PATIENCE)
            # Not before the last line is written: at exit it is the watchdog that writes it.
            self._on_stopped()
        finally:
            # Whatever went wrong, nobody may wait for it.
            for latch in (self._closed, self._known, self._done):
                latch.open()

    def _finish(self, drained: bool) -> bool:
        """Let the workers go and make the report; True if some are still busy."""
        dispatcher = self._dispatcher
        busy = dispatcher.finish()
        with dispatcher.lock:
            completed_before, dropped_before = dispatcher.at_close
            completed, dropped = dispatcher.ledger.ended()
        abandoned = tuple(name for worker in busy if (name := self._abandon(worker)) is not None)
        self._report = StopReport(
            drained=drained and dropped == dropped_before,
            completed=completed - completed_before,
            dropped=dropped - dropped_before,
            abandoned=abandoned,
            elapsed=time.monotonic() - self._began,
        )
        self._aside.say(self._before_last_word)
        self._say(self._log.info, "pool.stopped", **{**asdict(self._report), "abandoned": len(abandoned)})
        return bool(busy)

    def _end_backend(self, held: Sequence[Joinable], *, busy: bool) -> None:
        """Shut the backend down and see what we held of it end."""
        workers = self._workers
        held = [*held, *(each for each in workers.holding() if each not in held)]
        kills = workers.can_kill()
        if busy:
            # First of all, or shutdown() itself may wait for what hangs.
            workers.kill()
        # It is not waited for: the application's own calls in it may take as long as they like.
        workers.shutdown()
        if busy and not kills:
            return
        ends = time.monotonic() + PATIENCE
        if kills and not busy:
            # A process may have something to do at its end, such as to send its last spans.
            ends = max(ends, min(self._deadline_at, time.monotonic() + LAST_WORDS))
        for each in held:
            each.join(max(0.0, ends - time.monotonic()))
        # By now the backend itself no longer knows its processes.
        for each in [each for each in held if kills and each.is_alive()]:
            kill(each)
            each.join(PATIENCE)

    def _drain(self) -> bool:
        """Wait until nothing is queued or running; False at the deadline."""
        dispatcher = self._dispatcher
        with dispatcher.lock:
            there = dispatcher.occupancy()
        self._say(self._log.info, "pool.draining", queue_depth=there.queued, running=there.running)
        next_progress = self._began + PROGRESS_EVERY
        while True:
            now = time.monotonic()
            if dispatcher.is_quiet():
                return True
            if now >= self._deadline_at:
                return False
            if now >= next_progress:
                next_progress += PROGRESS_EVERY
                self._say(
                    self._log.info,
                    "pool.drain_progress",
                    remaining=self._remaining(),
                    elapsed=now - self._began,
                )
            if self._cancel_queued:
                self._drop_queued()
            wait = min(self._deadline_at, next_progress) - now
            self._await_stir(wait)

    def _break_off(self) -> bool:
        """Drop what is queued, ask what runs to end, and give it a moment; True if all did."""
        dispatcher = self._dispatcher
        self._say(
            self._log.warning,
            "pool.drain_deadline",
            remaining=self._remaining(),
            elapsed=time.monotonic() - self._began,
        )
        self._drop_queued()
        for worker in list(dispatcher.roster.workers):
            worker.request_cancel()
        ends = time.monotonic() + GRACE
        while not dispatcher.is_quiet() and (left := ends - time.monotonic()) > 0:
            self._await_stir(left)
        return dispatcher.is_quiet()

    def _await_stir(self, timeout: float) -> None:
        with suppress(queue.Empty):
            self._dispatcher.stirred.get(timeout=max(0.0, min(timeout, threading.TIMEOUT_MAX)))

    def _drop_queued(self) -> None:
        for task in self._dispatcher.drop_queued(Reason.SHUTDOWN):
            self._runner.dropped(task, Reason.SHUTDOWN, self._callbacks.say)
            self._steps += 1

    def _abandon(self, worker: Worker) -> str | None:
        """Give up on a worker: name it, and let nobody wait for its task any longer.

        None when it turns out to have finished at the last moment.
        """
        task, started, tasks = worker.task, worker.started, worker.tasks()
        self._steps += 1
        lost = False
        # Innermost first: each of them waits for the one inside it.
        for each in reversed(tasks):
            lost |= self._runner.abandon(each, self._callbacks.say)
        if task is None or not (lost or worker in self._dispatcher.roster.workers):
            return None
        # Not lost, but not back either: it hangs in a done-callback of a task that has finished.
        name = task.name if lost else f"a done-callback of {task.name}"
        elapsed = 0.0 if started is None else worker.now() - started
        self._say(
            self._log.error,
            "task.abandoned",
            **{**about(task), "task": name, "elapsed": elapsed, "stack": worker.stack()},
        )
        return name

    def _say(self, write: Callable[..., None], event: str, **fields: object) -> None:
        self._aside.say(lambda: write(event, **fields))

    def _remaining(self) -> int:
        with self._dispatcher.lock:
            there = self._dispatcher.occupancy()
        return there.queued + there.running

    def _provisional(self, began: float) -> StopReport:
        """Report what is known when the caller's time is up and the stop still goes on behind it."""
        running = [worker.task for worker in list(self._dispatcher.roster.workers)]
        return StopReport(
            drained=False,
            completed=0,
            dropped=0,
            abandoned=tuple(task.name for task in running if task is not None),
            elapsed=time.monotonic() - began,
        )


def _on_top_of_ours() -> bool:
    """Tell whether the caller of `stop` interrupted a frame of this package, as a signal handler may."""
    if threading.current_thread() is not threading.main_thread():
        return False
    frame = sys._getframe()  # noqa: SLF001  # documented, and the only way to see what was interrupted
    names = []
    while frame is not None:
        names.append(str(frame.f_globals.get("__name__", "")).startswith("prodpool."))
        frame = frame.f_back  # type: ignore[assignment]
    # Innermost first: the frames of this very call, the caller's, and then any of ours below it.
    return True in names[names.index(False) :] if False in names else False
