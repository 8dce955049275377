"""What goes to a backend and what comes back from it, task by task.

Whoever gives a seat a task hands that task over, in its own thread; what comes back is settled by the
courier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from functools import partial
from typing import Any

from prodpool.dispatch import Dispatcher
from prodpool.errors import UnpicklableError
from prodpool.execution import Runner
from prodpool.task import Task
from prodpool.telemetry.logs import PoolLog
from prodpool.telemetry.trouble import Trouble
from prodpool.vocabulary import Result, State
from prodpool.workers.base import Capabilities
from prodpool.workers.beacon import Beacon
from prodpool.workers.courier import Courier
from prodpool.workers.limits import Limits
from prodpool.workers.recovery import Recovery, worker_lost
from prodpool.workers.routes import NoFutureError, Routes
from prodpool.workers.seat import Seat
from prodpool.workers.shim import Outcome
from prodpool.workers.supply import Supply
from prodpool.workers.transport import Transport
from prodpool.workers.window import Handover, Window


class Exchange:
    """Hands the tasks of one pool over and settles them.

    Args:
        pool: The pool's name.
        supply: The backend in use.
        abilities: What it can do.
        context_vars: Names of the context variables that travel too.
        beacon: What its workers see of the pool; None where they see nothing.
        dispatcher: Who gives seats their tasks.
        runner: What settles a task.
        log: Where a new backend is announced.
        trouble: Told what goes wrong in the courier's thread.
        now: The pool's clock.
        on_sent: Called after each task that a backend has taken.
        on_ran: Told how many seconds a task ran, in the courier's thread.
        on_broken: Told that nothing can be done about the backend any more.
    """

    def __init__(
        self,
        pool: str,
        *,
        supply: Supply,
        abilities: Capabilities,
        context_vars: Sequence[str],
        beacon: Beacon | None,
        dispatcher: Dispatcher,
        runner: Runner,
        log: PoolLog,
        trouble: Trouble,
        now: Callable[[], float],
        on_sent: Callable[[], None],
        on_ran: Callable[[float], None],
        on_broken: Callable[[BaseException], None],
    ) -> None:
        self._pool = pool
        self._supply = supply
        self._abilities = abilities
        self._transport = Transport(
            pool, abilities, context_vars=context_vars, carrier=runner.carrier, now=now
        )
        self._dispatcher = dispatcher
        self._runner = runner
        self._courier = Courier(
            pool,
            settles=dispatcher.roster.workers,
            due_in=self._due_in,
            on_due=self._on_due,
            on_error=lambda error: trouble.report("internal", error),
        )
        self._now = now
        self._on_sent = on_sent
        self._on_ran = on_ran
        self._routes = Routes(
            self._transport,
            supply=supply,
            abilities=abilities,
            beacon=beacon,
            workers=dispatcher.workers,
            courier=self._courier,
            arrivals=self,
            on_sent=on_sent,
        )
        self._window = Window(dispatcher.workers)
        self._recovery = Recovery(
            supply,
            log=log,
            workers=dispatcher.workers,
            stopped=lambda: dispatcher.state is State.STOPPED,
            work=self._work,
            give_back=lambda seat, task, error: self._work(seat, runner.give_back(seat, task, error)),
            on_broken=on_broken,
        )
        self._limits = self._make_limits()

    def start(self) -> None:
        """Have the courier running.

        Raises:
            RuntimeError: The system has no thread to give.
        """
        self._courier.start()

    def close(self) -> None:
        """Let the courier go; nothing more comes back."""
        self._routes.close()
        self._courier.close()

    def set_to_work(self, seat: Seat, task: Task | None) -> None:
        """Hand over the task that a seat was given, if any, and whatever it is given after that."""
        if self._dispatcher.state is State.OPEN:
            self._work(seat, task)
        else:
            # A stop gets on, however long the application's own pickling takes.
            self._courier.post(partial(self._work, seat, task))

    def refit(self) -> None:
        """Hand over what was held for want of workers."""
        for held in self._window.refit():
            self._courier.post(partial(self._hand_held, held))

    def shutdown(self) -> None:
        """Give up what was not handed over, and the executors of tasks with a limit."""
        if self._limits is not None:
            self._limits.shutdown()
        self._courier.post(self._recovery.give_up_if_stopped)
        self._courier.post(self._give_up_held)

    def limited_processes(self) -> list[Any]:
        """Return the processes of tasks with a limit."""
        processes = self._abilities.processes
        if processes is None or self._limits is None:
            return []
        return [process for backend in self._limits.backends() for process in processes(backend)]

    # Handing over, in the thread of whoever gave the seat its task.

    def _work(self, seat: Seat, task: Task | None) -> None:
        while task is not None:
            task = self._hand_over(seat, task)

    def _hand_over(self, seat: Seat, task: Task) -> Task | None:
        """Hand over ``task``; returns the seat's next one if this one is settled already."""
        if self._runner.has_expired(task, self._now()):
            return self._settled(task, self._runner.expire(seat, task))
        limited = self._limits is not None and task.options.timeout is not None
        if not limited and self._recovery.holds(task):
            self._courier.post(partial(self._recovery.strand, seat, task))
            return None
        handover = Handover(seat, task, limited)
        return self._hand(handover) if self._window.enter(handover) else None

    def _hand(self, handover: Handover) -> Task | None:
        """Hand over what has its place in the window; returns the seat's next task as `_hand_over` does."""
        seat, task, limited = handover
        seat.since = self._now()
        if limited:
            assert self._limits is not None  # noqa: S101  # `_hand_over` looked
            self._courier.post(partial(self._limits.begin, handover))
            return None
        generation = self._supply.generation
        try:
            call = self._transport.pack(task)
        except BaseException as error:  # a __reduce__ may raise anything, and Ctrl-C may come meanwhile
            following = self._refuse(handover, error)
            if isinstance(error, Exception):
                return following
            self._work(seat, following)
            raise
        try:
            self._routes.send(handover, generation, call)
        except BaseException as error:  # noqa: BLE001
            return self._turned_away(handover, generation, error)
        return None

    def _turned_away(self, handover: Handover, generation: int, error: BaseException) -> Task | None:
        """Settle a task that the backend did not take, if the fault is not the backend's."""
        seat, task, _ = handover
        if isinstance(error, UnpicklableError | NoFutureError):
            return self._refuse(handover, error)
        if self._is_short(error):
            # No process or descriptor to be had for this one, which may be queued there all the same.
            self._courier.post(partial(self.lost, handover, generation, error))
            return None
        self._leave(handover)
        self._courier.post(partial(self._recovery.refused, seat, task, generation, error))
        return None

    def _is_short(self, error: BaseException) -> bool:
        """Tell whether ``error`` is that of a process pool which gets nothing more from the system."""
        return isinstance(error, OSError) and self._abilities.processes is not None

    def _refuse(self, handover: Handover, error: BaseException, result: Result | None = None) -> Task | None:
        """Settle a task that cannot be handed over."""
        self._leave(handover)
        now = self._now()
        following = self._runner.settle(handover.seat, handover.task, now, now, None, error, result)
        return self._settled(handover.task, following)

    def _settled(self, task: Task, following: Task | None) -> Task | None:
        """Note that a task was settled without having been away; return what its seat has to do next."""
        if self._recovery.is_on_trial(task):
            self._courier.post(partial(self._recovery.came_home, task))
        return following

    def _leave(self, handover: Handover) -> None:
        """Give up a place in the window, and have those handed over that were held."""
        handover.seat.number = 0
        for held in self._window.leave(limited=handover.limited):
            self._courier.post(partial(self._hand_held, held))

    def _give_up_held(self) -> None:
        if self._dispatcher.state is State.STOPPED:
            for seat, task, _ in self._window.give_up():
                self._work(seat, self._runner.give_back(seat, task, None))

    def _hand_held(self, handover: Handover) -> None:
        if self._dispatcher.state is State.STOPPED:
            self.give_back(handover, None)
        elif not handover.limited and self._recovery.holds(handover.task):
            self._leave(handover)
            self._recovery.strand(handover.seat, handover.task)
        else:
            self._work(handover.seat, self._hand(handover))

    # Coming home, in the courier's thread.

    def arrived(self, handover: Handover, generation: int, outcome: Outcome) -> None:
        """Settle a task by its outcome."""
        self._supply.succeeded(generation)
        self._settle(handover, outcome)
        # Not before: what its seat was given next must not run beside the next trial.
        self._recovery.came_home(handover.task)

    def lost(self, handover: Handover, generation: int, error: BaseException) -> None:
        """Decide about a task that has no outcome, because of ``error``."""
        self._decide(handover, generation, error)
        self._recovery.came_home(handover.task)  # not before, likewise

    def came_back(self, handover: Handover, generation: int, error: BaseException | None) -> None:
        """Hand a task that never began over again, or decide about it if ``error`` keeps it from that."""
        if error is None:
            self._hand_held(handover)
        else:
            self._work(handover.seat, self._turned_away(handover, generation, error))

    def _decide(self, handover: Handover, generation: int, error: BaseException) -> None:
        """Settle a task that has no outcome, or keep it to be run again."""
        seat, task, _ = handover
        began = seat.began()
        self._leave(handover)
        if isinstance(error, BrokenExecutor | CancelledError):
            seen = None if seat.mark is None else began is not None
            kept = self._recovery.broken(seat, task, generation, error, began=seen)
        elif isinstance(error, self._abilities.lost) or self._is_short(error):
            kept = self._recovery.suspect(seat, task)
        else:  # the backend's own failure with this one task
            now = self._now()
            self._work(seat, self._runner.settle(seat, task, seat.since, now, None, error))
            kept = True
        if not kept:
            self._settle_failed(handover, began, worker_lost(self._pool, task, error), Result.PANIC)

    def _settle_failed(
        self, handover: Handover, began: float | None, error: BaseException, result: Result
    ) -> None:
        seat, task, _ = handover
        started = seat.since if began is None else began
        self._work(seat, self._runner.settle(seat, task, started, self._now(), None, error, result))

    # What `Limits` needs of us.

    def submit(self, backend: Any, handover: Handover) -> Future[Any] | None:
        """Hand a task over to ``backend``; None if it does not pickle and is settled by that."""
        try:
            call = self._transport.pack(handover.task)
        except BaseException as error:  # noqa: BLE001  # as above
            self._work(handover.seat, self._refuse(handover, error))
            return None
        seat, task, _ = handover
        lease = self._transport.send(backend, task, self._transport.ticket(seat, task), call)
        self._on_sent()
        return lease

    def settle(self, handover: Handover, lease: Future[Any]) -> None:
        """Settle a task by its outcome."""
        self._settle(handover, lease.result(0))

    def _settle(self, handover: Handover, outcome: Outcome) -> None:
        seat, task, _ = handover
        self._leave(handover)
        if outcome.expired:
            self._work(seat, self._runner.expire(seat, task))
            return
        started, ended, value, failure = self._transport.read(seat, task, outcome)
        self._on_ran(ended - started)
        self._work(seat, self._runner.settle(seat, task, started, ended, value, failure))

    def fail(self, handover: Handover, error: BaseException, result: Result) -> None:
        """Settle a task that has no outcome."""
        began = handover.seat.began()
        self._leave(handover)
        self._settle_failed(handover, began, error, result)

    def give_back(self, handover: Handover, error: BaseException | None) -> None:
        """Settle a task that never began."""
        self._leave(handover)
        self._work(handover.seat, self._runner.give_back(handover.seat, handover.task, error))

    def post(self, call: Callable[[], object]) -> None:
        """Have a call made in the courier's thread."""
        self._courier.post(call)

    # The parts.

    def _due_in(self) -> float | None:
        """Return the seconds until `_on_due` is to be called; None for not at all."""
        limits = None if self._limits is None else self._limits.due_in()
        rebuild = self._supply.due_in()
        if limits is None or rebuild is None:
            return rebuild if limits is None else limits
        return min(limits, rebuild)

    def _on_due(self) -> None:
        """Build the next backend, and kill what has run for too long."""
        if self._supply.due_in() == 0.0:
            self._recovery.rebuild()
        if self._limits is not None:
            self._limits.check()

    def _make_limits(self) -> Limits | None:
        abilities = self._abilities
        single, processes = abilities.single, abilities.processes
        if single is None or processes is None:
            return None
        return Limits(
            self._pool,
            single=lambda: single(self._supply.backend),
            processes=processes,
            most_idle=self._dispatcher.workers,
            hands_over=self,
        )
