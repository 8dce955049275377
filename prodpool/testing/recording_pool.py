"""A pool for unit tests: it has no threads, notes what is submitted, and refuses when it is told to."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from prodpool.concurrency.clock import Clock, SystemClock
from prodpool.config.settings import check_flag, check_methods, check_name, check_seconds
from prodpool.shutdown.report import StopReport
from prodpool.submission.options import OptionsExecutor
from prodpool.task.future import PoolFuture
from prodpool.task.outcomes import Reason
from prodpool.testing.recording_submitter import RecordingSubmitter
from prodpool.testing.submission import Submission


class RecordingPool(OptionsExecutor):
    """Stands in for a pool in unit tests: no threads, nothing is counted, every call is noted.

    It can be passed wherever a `prodpool.PoolLike` or an `Executor` is taken. A call is checked as a pool
    checks it, and then made in the calling thread before ``submit`` returns: the future is done by then. A
    task that another one submits is run when that one has ended, or when that one waits for its result, as
    over a pool of one worker. Tasks see a copy of the context variables, and ``current_task()``.

    With ``hold`` the tasks are kept until `run_next` or `run_all`, as in a pool whose workers are busy: until
    then who waits for a result waits, so let another thread wait, or pass a ``timeout``.

    Args:
        name: Its name, for errors and ``current_task().pool``.
        hold: Whether tasks are kept until `run_next` or `run_all`.
        clock: Where the time is read for deadlines and run-time limits; None for the system's.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it, its value and what would do.

    Threads: safe from any thread; each runs what it submits.
    """

    def __init__(self, name: str = "recording", *, hold: bool = False, clock: Clock | None = None) -> None:
        check_methods("clock", clock, ("monotonic",), "an object with monotonic(), such as ManualClock()")
        now = (SystemClock() if clock is None else clock).monotonic
        self._recorder = RecordingSubmitter(check_name(name), now, hold=check_flag("hold", hold))
        self._submitter = self._recorder
        self._report: StopReport | None = None

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._recorder.pool

    @property
    def submissions(self) -> list[Submission]:
        """The calls that were submitted, refused ones as well, in order; a list of your own.

        A call that is wrong, such as one of an ``async def`` function, is not among them.
        """
        return list(self._recorder.submissions)

    @property
    def held(self) -> int:
        """The number of tasks that are held."""
        return self._recorder.held()

    def run_next(self) -> PoolFuture[Any] | None:
        """Run the task that has been held for longest, in this thread, and return its future.

        None if no task is held. One whose deadline has passed is not run: its future raises TaskExpiredError.

        Raises:
            KeyboardInterrupt: The task raised it.
        """
        return self._recorder.run_next()

    def run_all(self) -> int:
        """Run the tasks that are held, and those that they submit, in this thread; return how many.

        Raises:
            KeyboardInterrupt: A task raised it; the tasks behind it are still held.
        """
        count = 0
        while self._recorder.run_next() is not None:
            count += 1
        return count

    def refuse(
        self,
        error: type[RuntimeError] | BaseException,
        *,
        times: int | None = 1,
        retry_after: float | None = None,
    ) -> None:
        """Refuse the next calls with ``error``. Errors are raised in the order in which they were given.

        A pool refuses with PoolFullError only where the caller does not wait, or not without a limit; this
        one refuses whatever is submitted next, by `map` too.

        Args:
            error: PoolFullError, PoolClosedError, PoolBrokenError, PoolForkedError, BreakerOpenError or
                TaskExpiredError, which are made with this pool's name; or any exception, which is raised as
                it is.
            times: The number of calls to refuse; None for all from then on, until `accept`.
            retry_after: Seconds, for the error's field of that name.

        Raises:
            TypeError, ValueError: An argument is wrong; the message names it, its value and what would do.
        """
        self._recorder.refusals.add(error, times=times, retry_after=retry_after)

    def fail(self, error: type[RuntimeError] | BaseException, *, times: int | None = 1) -> None:
        """Have the next tasks that are accepted fail with ``error``, without a call of their functions.

        Args:
            error: WorkerLostError, TaskTimeoutError or TaskExpiredError, which are made with the names of
                pool and task; or any exception, which the future raises as it is.
            times: The number of tasks; None for all from then on, until `accept`.

        Raises:
            TypeError, ValueError: An argument is wrong; the message names it, its value and what would do.
        """
        self._recorder.failures.add(error, times=times, retry_after=None)

    def accept(self) -> None:
        """Forget what `refuse` and `fail` were told for calls to come."""
        self._recorder.refusals.clear()
        self._recorder.failures.clear()

    def stop(self, deadline: float | None = None) -> StopReport:
        """Refuse new calls, run what is held, and report that. Called again, return the same report.

        Args:
            deadline: Seconds; with 0 what is held is cancelled instead. A task that another thread runs is
                not waited for, and reported as abandoned.

        Raises:
            RuntimeError: Called inside a task of this pool, or its done-callback.
        """
        if deadline is not None:
            check_seconds("deadline", deadline)
        return self._stop("stop()", drop=deadline == 0)

    async def stop_async(self, deadline: float | None = None) -> StopReport:
        """Do what `stop` does."""
        if deadline is not None:
            check_seconds("deadline", deadline)
        return self._stop("stop_async()", drop=deadline == 0)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do what `stop` does.

        Args:
            wait: False inside a task of this pool: what is held is run when that task has ended.
            cancel_futures: Cancel what is held instead of running it.
        """
        if wait or self._recorder.worker_here() is None:
            self._stop(f"shutdown(wait={wait})", drop=cancel_futures)
        else:
            self._recorder.close_from_inside(drop=cancel_futures)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop_async()

    def __repr__(self) -> str:
        recorder = self._recorder
        state = "stopped" if recorder.closed else "open"
        return (
            f"<{type(self).__name__} {self.name!r} {state}: {len(recorder.submissions)} submitted, "
            f"{self.held} held>"
        )

    def _stop(self, what: str, *, drop: bool) -> StopReport:
        recorder, began = self._recorder, time.monotonic()
        if recorder.worker_here() is not None:
            raise RuntimeError(
                f"{what} inside a task of pool {self.name!r}, or a done-callback of one, would wait for that "
                "very task: call shutdown(wait=False) there, or stop the pool from outside"
            )
        if self._report is None:
            recorder.closed = True
            before = recorder.completed
            dropped = recorder.drop_held(Reason.SHUTDOWN) if drop else 0
            self.run_all()
            abandoned = recorder.running()
            self._report = StopReport(
                drained=not dropped and not abandoned,
                completed=recorder.completed - before,
                dropped=dropped,
                abandoned=abandoned,
                elapsed=time.monotonic() - began,
            )
        return self._report
