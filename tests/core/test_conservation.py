"""Promises 1 and 2: every admitted task is in exactly one place; neither workers nor queue hold too many.

The machine drives the dispatcher through every step it has, in any order, beside a model of what must be. The
campaign (test_campaign.py) does the same to a whole pool from many threads.
"""

from __future__ import annotations

import itertools
from contextvars import Context
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from prodpool import PoolFullError, PoolStats, Reason, Result
from prodpool.scheduling.dispatcher import Admission, Dispatcher
from prodpool.scheduling.wait_queue import ThreadWaiter
from prodpool.scheduling.worker import Worker
from prodpool.task.future import FINISHED, PoolFuture
from prodpool.task.outcomes import AFTER_ADMISSION, State
from prodpool.task.task import Task, TaskOptions
from prodpool.telemetry.counters import PoolCounters
from prodpool.testing import ManualClock
from tests.helpers.accounting import check, check_counters, check_scrape, scrape
from tests.helpers.inside import AheadWorker
from tests.helpers.tasks import BlockingTask, TaskError, fill, occupy
from tests.helpers.waiting import PATIENCE, until
from tests.support import MakePool


class FutureOwner:
    """A home for futures that are never waited for."""

    pool = "test"

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.lock = dispatcher.lock

    def cancel(self, task: Any) -> bool:  # noqa: ARG002
        return False

    def run_inline(self, task: Any) -> None:
        """Not asked here."""

    def callback_failed(self, fn: Any, error: BaseException) -> None:  # noqa: ARG002
        raise error


class DispatcherMachine(RuleBasedStateMachine):
    """Every task, worker and waiter is held here, so that each invariant can be checked from outside."""

    # Whether workers are given tasks ahead.
    gives_ahead = False

    @initialize(workers=st.integers(1, 3), capacity=st.integers(0, 3), prefetch=st.integers(0, 2))
    def build(self, workers: int, capacity: int, prefetch: int) -> None:
        self.ticks = itertools.count()
        self.dispatcher = Dispatcher(
            workers=workers,
            queue_capacity=capacity,
            prefetch=prefetch,
            counters=PoolCounters((0.1, 1.0)),
            now=lambda: float(next(self.ticks)),
        )
        self.home = FutureOwner(self.dispatcher)
        self.admitted: list[Task] = []
        self.waiters: list[ThreadWaiter] = []
        self.told: list[ThreadWaiter] = []
        self.coming: list[Worker] = []
        self.at_work: dict[Worker, Task] = {}
        # What they were given ahead, in the order in which they will run it.
        self.ahead: dict[Worker, list[Task]] = {}
        self.returning: list[Worker] = []
        self.idle: list[Worker] = []
        # What stood in the queue and was put back there: it may have overtaken others.
        self.put_back: set[Task] = set()
        # With its helper, which has to end it before its own task.
        self.helped: list[tuple[Worker, Task]] = []
        self.finished: list[Task] = []
        self.dropped: list[Task] = []
        self.ran = 0

    # what submitters do

    def task(self, timeout: float | None = None) -> Task:
        task = Task(int, (), {}, Context(), float(next(self.ticks)), TaskOptions(timeout=timeout))
        task.future = PoolFuture(self.home, task)
        return task

    def offer(self, task: Task, waiter: ThreadWaiter | None) -> Admission:
        offer = self.dispatcher.try_admit(task, waiter)
        while offer is Admission.NEEDS_WORKER:
            self.start()
            offer = self.dispatcher.try_admit(task, waiter)
        if offer is Admission.ADMITTED:
            self.admitted.append(task)
        self.look()
        return offer

    def start(self) -> None:
        worker = AheadWorker() if self.gives_ahead else Worker("test", lambda: 0.0)
        if self.dispatcher.add_starting(worker):
            self.coming.append(worker)
            self.look()

    @rule(count=st.integers(1, 4), timeout=st.sampled_from([None, None, None, 1.0]))
    def submit(self, count: int, timeout: float | None) -> None:
        for _ in range(count):
            offer = self.offer(self.task(timeout), None)
            if offer is Admission.FULL:
                self.assert_full()

    def assert_full(self) -> None:
        """Refused is only who really does not fit, also while a worker is between two tasks."""
        dispatcher = self.dispatcher
        with dispatcher.lock:
            there = dispatcher.occupancy()
        assert there.queued == dispatcher.queue_capacity
        assert dispatcher.paused or there.running >= dispatcher.workers()

    @rule()
    def submit_and_wait(self) -> None:
        waiter = ThreadWaiter(self.task())
        if self.offer(waiter.task, waiter) is Admission.WAITING:
            self.waiters.append(waiter)
            self.assert_full()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def walk_away(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiters))
        assert self.dispatcher.cancel_wait(waiter)
        self.waiters.remove(waiter)

    @rule(data=st.data(), reason=st.sampled_from([Reason.CANCELLED, Reason.EXPIRED]))
    def discard(self, data: st.DataObject, reason: Reason) -> None:
        queued = [task for task in self.admitted if task.prev]
        if queued:
            task = data.draw(st.sampled_from(queued))
            assert self.dispatcher.discard(task, reason)
            assert not self.dispatcher.discard(task, reason)
            self.settle_dropped(task)
            self.look()

    def settle_dropped(self, task: Task) -> None:
        assert task in self.dispatcher.unsettled
        self.dispatcher.mark_settled(task)
        self.dropped.append(task)

    # what workers do

    @rule()
    def start_late(self) -> None:
        # A submitter that heard NEEDS_WORKER a while ago; what it heard may no longer be so.
        before = len(self.dispatcher.worker_set.workers)
        self.start()
        assert len(self.dispatcher.worker_set.workers) <= max(before, self.dispatcher.worker_set.max_workers)

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def come_up(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.coming))
        self.coming.remove(worker)
        self.took(worker, self.dispatcher.mark_started(worker))

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def never_come_up(self, data: st.DataObject) -> None:
        # The backend refused it: only what no other task has relied on is taken back here.
        worker = data.draw(st.sampled_from(self.coming))
        if self.dispatcher.queue.length < self.dispatcher.worker_set.starting:
            self.coming.remove(worker)
            self.dispatcher.start_failed(worker)
            self.dispatcher.start_failed(worker)  # a second time is harmless
            assert self.dispatcher.mark_started(worker) is None

    def can_finish(self) -> list[Worker]:
        helpers = {helper for helper, _ in self.helped}
        return [worker for worker in self.at_work if worker not in helpers]

    @precondition(lambda self: self.can_finish())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.can_finish()))
        task = self.at_work.pop(worker)
        self.finished.append(task)
        with self.dispatcher.lock:
            self.dispatcher.counters.ok += 1
            self.dispatcher.worker_set.release(worker)
            task.future._set_state(FINISHED, None, None)
            following = self.dispatcher.next_task(worker)
        self.dispatcher.notify_waiters()
        self.took(worker, following)

    @precondition(lambda self: self.can_finish())
    @rule(data=st.data())
    def finish_slowly(self, data: st.DataObject) -> None:
        # Its task is settled; the worker is still busy with a log line or a done-callback.
        worker = data.draw(st.sampled_from(self.can_finish()))
        task = self.at_work.pop(worker)
        self.finished.append(task)
        with self.dispatcher.lock:
            self.dispatcher.counters.ok += 1
            self.dispatcher.worker_set.release(worker)
            task.future._set_state(FINISHED, None, None)
            self.dispatcher.use_freed_slot()
        self.returning.append(worker)
        self.dispatcher.notify_waiters()
        self.look()

    @precondition(lambda self: self.returning)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.returning))
        self.returning.remove(worker)
        with self.dispatcher.lock:
            following = self.dispatcher.next_task(worker)
        self.dispatcher.notify_waiters()
        self.took(worker, following)

    def took(self, worker: Worker, task: Task | None) -> None:
        if ahead := self.ahead.pop(worker, []):
            assert task is ahead.pop(0), "what was given first is run first, also where nothing else is begun"
            self.ahead[worker] = ahead
        if task is not None:
            self.at_work[worker] = task
        elif not worker.dismissed:
            self.idle.append(worker)
        self.look()

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.idle))
        assert self.dispatcher.retire_idle(worker)
        assert not self.dispatcher.retire_idle(worker)
        self.idle.remove(worker)

    # Only threads help, and nothing is prefetched for threads.
    @precondition(lambda self: self.at_work and not self.gives_ahead and not self.dispatcher.prefetch)
    @rule(data=st.data())
    def help(self, data: st.DataObject) -> None:
        queued = [task for task in self.admitted if task.prev]
        if queued:
            task = data.draw(st.sampled_from(queued))
            assert self.dispatcher.claim_inline(task)
            self.helped.append((data.draw(st.sampled_from(list(self.at_work))), task))

    @precondition(lambda self: self.helped)
    @rule()
    def finish_helped(self) -> None:
        _, task = self.helped.pop()
        self.finished.append(task)
        with self.dispatcher.lock:
            self.dispatcher.counters.ok += 1
            self.dispatcher.inline -= 1
            task.future._set_state(FINISHED, None, None)
            self.dispatcher.use_freed_slot()
        self.dispatcher.notify_waiters()
        self.look()

    # what the owner does

    @rule()
    def pause(self) -> None:
        self.dispatcher.pause()

    @rule()
    def resume(self) -> None:
        for _ in range(self.dispatcher.resume()):
            self.start()
        self.look()

    @rule(workers=st.integers(1, 4), prefetch=st.integers(0, 2))
    def resize(self, workers: int, prefetch: int) -> None:
        # For threads, which help, nothing is prefetched.
        for _ in range(self.dispatcher.resize(workers, prefetch if self.dispatcher.prefetch else 0)):
            self.start()
        self.look()

    @precondition(lambda self: len(self.admitted) > 20)
    @rule()
    def close(self) -> None:
        for _ in range(self.dispatcher.start_draining()):
            self.start()
        for waiter in self.waiters:
            assert waiter.admitted is False
            assert waiter._lock.acquire(blocking=False)
        self.waiters.clear()
        self.look()

    @precondition(lambda self: self.dispatcher.state is State.DRAINING)
    @rule()
    def drop(self) -> None:
        for task in self.dispatcher.drop_queued(Reason.SHUTDOWN):
            self.settle_dropped(task)

    @rule()
    def repair(self) -> None:
        """Where nothing was interrupted there is nothing to repair."""
        for _ in range(self.dispatcher.repair()):
            self.start()
        for worker in self.at_work:
            worker.wake.acquire(blocking=False)  # reminded: its loop is not there to say that it has begun
        self.look()

    def look(self) -> None:
        """Follow what the dispatcher did on its own: who was let in, was given a task or was sent away."""
        for waiter in [waiter for waiter in self.waiters if waiter.admitted]:
            assert waiter._lock.acquire(blocking=False), "let in and not told"
            self.waiters.remove(waiter)
            self.admitted.append(waiter.task)
        for worker in [worker for worker in self.idle if worker.prev is None]:
            self.idle.remove(worker)
            if worker.dismissed:
                assert worker.wake.acquire(blocking=False)
            else:
                assert worker.wake.acquire(blocking=False), "given a task and not woken"
                assert worker.task is not None
                self.at_work[worker] = worker.task

    # what must hold after each step

    @invariant()
    def conserved(self) -> None:
        with self.dispatcher.lock:
            there, counters = self.dispatcher.occupancy(), self.dispatcher.counters
            dropped = sum(counters.dropped[reason] for reason in AFTER_ADMISSION)
            assert counters.submitted == counters.ok + dropped + there.queued + there.running
        waiting = [task for task in self.admitted if task.prev]
        assert counters.submitted == len(self.admitted)
        assert (counters.ok, dropped) == (len(self.finished), len(self.dropped))
        ahead = sum(map(len, self.ahead.values()))
        assert there.queued + there.running == len(waiting) + len(self.at_work) + ahead + len(self.helped)

    @invariant()
    def bounded(self) -> None:
        dispatcher = self.dispatcher
        with dispatcher.lock:
            there = dispatcher.occupancy()
        assert 0 <= there.queued <= dispatcher.queue_capacity
        # A pool made smaller interrupts nobody, so it may go on running what it ran, and nothing more.
        assert 0 <= there.running <= max(dispatcher.workers(), self.ran)
        self.ran = there.running
        if self.gives_ahead:
            # What waits behind another task is shown as queued, and nothing else is.
            assert there.running >= len(self.at_work)
            # A process goes on with what it was sent already.
            self.ran = max(self.ran, len({*self.at_work, *(each for each in self.ahead if self.ahead[each])}))

    @invariant()
    def in_order(self) -> None:
        queued = self.dispatcher.queue.snapshot()
        assert {task for task in self.admitted if task.prev} == set(queued)
        in_order = [task for task in queued if task not in self.put_back]
        assert [task for task in self.admitted if task.prev and task not in self.put_back] == in_order
        assert self.dispatcher.queue.last is (queued[-1] if queued else self.dispatcher.queue)
        assert [waiter for waiter in self.waiters if waiter.prev] == self.dispatcher.waiters.snapshot()
        assert all(waiter.prev for waiter in self.waiters)

    @invariant()
    def everybody_is_known(self) -> None:
        dispatcher = self.dispatcher
        workers = dispatcher.worker_set
        assert workers.parked == self.idle or set(workers.parked) == set(self.idle)
        assert workers.starting == len(self.coming)
        ahead = sum(map(len, self.ahead.values()))
        assert (workers.running, workers.ahead) == (len(self.at_work) + ahead, ahead)
        assert all(list(worker.ahead or ()) == ahead for worker, ahead in self.ahead.items())
        assert dispatcher.inline == len(self.helped)
        assert dispatcher.worker_set.workers == {*self.coming, *self.idle, *self.at_work, *self.returning}
        assert not dispatcher.waiters.to_notify.length
        assert not dispatcher.unsettled.length

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        dispatcher = self.dispatcher
        queued, line = dispatcher.queue.length, dispatcher.waiters.length
        if line:
            # Nobody else can get past them: a submit at this moment finds no room.
            assert dispatcher.in_flight >= dispatcher._slots()
        if dispatcher.paused:
            return
        # A helped task may keep the slot of a worker that came up for it in vain.
        places = dispatcher.workers() + dispatcher.queue_capacity
        full = dispatcher.worker_set.running + queued + dispatcher.inline >= places
        assert not (dispatcher.worker_set.parked and queued)
        # Who stands in line may have to wait for a worker that is on its way back, and takes it.
        # Or for what another has been given ahead, which is taken back if it is not begun at once.
        ahead = any(self.ahead.values())
        # Or for a place that the watchdog has to bring, since the start of a worker failed.
        waits = dispatcher.worker_set.parked and line
        assert not waits or full or self.returning or ahead or dispatcher.repair()
        # Some loop comes by, or the watchdog starts what is missing.
        assert not (queued or line) or dispatcher.worker_set.workers or dispatcher.repair()


class AheadMachine(DispatcherMachine):
    """The same over worker processes of the pool's own, which are given tasks ahead; none is prefetched."""

    gives_ahead = True

    @initialize(workers=st.integers(1, 3), capacity=st.integers(1, 6), prefetch=st.just(0))
    def build(self, workers: int, capacity: int, prefetch: int) -> None:
        super().build(workers, capacity, prefetch)
        # Else hardly any example gets to what this is about.
        self.submit(workers + capacity, None)
        for worker in list(self.coming):
            self.coming.remove(worker)
            self.took(worker, self.dispatcher.mark_started(worker))

    @precondition(lambda self: self.at_work)
    @rule(data=st.data(), most=st.integers(1, 4))
    def take_ahead(self, data: st.DataObject, most: int) -> None:
        """The worker sends its process more, if others wait: in their order, and none with a time limit."""
        worker = data.draw(st.sampled_from(list(self.at_work)))
        queued, dispatcher = self.dispatcher.queue.snapshot(), self.dispatcher
        surplus = len(dispatcher.worker_set.workers) > dispatcher.worker_set.max_workers
        wanted = [] if dispatcher.paused or surplus else queued[:most]
        wanted = list(itertools.takewhile(lambda task: task.options.timeout is None, wanted))
        assert dispatcher.assign_ahead(worker, most) == len(wanted)
        self.ahead.setdefault(worker, []).extend(wanted)
        assert all(task.future.running() for task in wanted)
        assert not any(dispatcher.discard(task, Reason.CANCELLED) for task in wanted)

    @precondition(lambda self: any(self.ahead.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """The process takes its time: the last of what waits for it goes back to the head of the queue."""
        worker = data.draw(st.sampled_from([worker for worker, ahead in self.ahead.items() if ahead]))
        ahead = self.ahead[worker]
        count = data.draw(st.integers(1, len(ahead)))
        self.ahead[worker], back = ahead[:-count], ahead[-count:]
        queued = [*back, *self.dispatcher.queue.snapshot()]
        assert isinstance(worker, AheadWorker)
        worker.unbegun = count
        self.dispatcher.requeue_ahead(worker)
        self.were_put_back(back, queued)

    @precondition(lambda self: self.at_work or self.returning or self.idle)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """The process is gone. What it has not begun goes back, in its order; the rest was settled before."""
        worker = data.draw(st.sampled_from([*self.at_work, *self.returning, *self.idle]))
        task = self.at_work.pop(worker, None)
        back = [*([] if task is None else [task]), *self.ahead.pop(worker, [])]
        for others in (self.returning, self.idle):
            if worker in others:
                others.remove(worker)
        queued = [*back, *self.dispatcher.queue.snapshot()]
        self.dispatcher.remove_lost(worker)
        assert (worker.task, worker.prev, len(worker.ahead or ())) == (None, None, 0)
        self.were_put_back(back, queued)

    def were_put_back(self, back: list[Task], queued: list[Task]) -> None:
        """Check that tasks are queued again, or given to workers that were free, in this order."""
        self.put_back.update(back)
        before = len(self.at_work)
        self.look()
        left = self.dispatcher.queue.snapshot()
        given = len(self.at_work) - before
        assert left[: max(0, len(queued) - given)] == queued[given:]
        assert set(queued[:given]) <= set(self.at_work.values())
        assert not any(task.future.running() for task in queued[given:])


SETTINGS = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # which a stalled machine is
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # explaining takes minutes
)
DispatcherMachine.TestCase.settings = SETTINGS
AheadMachine.TestCase.settings = settings(SETTINGS, max_examples=300)
TestDispatcherAgainstModel = DispatcherMachine.TestCase
TestTasksAheadAgainstModel = AheadMachine.TestCase


@pytest.mark.parametrize("fate", [Result.OK, Result.ERROR, Result.PANIC, *AFTER_ADMISSION])
def test_whoever_hears_of_a_task_finds_it_counted(
    make_pool: MakePool, hold: BlockingTask, fate: Result | Reason
) -> None:
    """When a done-callback runs, the numbers include that task already, and its place is free."""
    clock = ManualClock()
    pool = make_pool(1, queue_capacity=1, clock=clock, hung_after=1_000.0)
    seen: list[PoolStats] = []

    def task() -> None:
        hold()
        if fate is Result.ERROR:
            raise TaskError
        if fate is Result.PANIC:
            raise SystemExit

    if isinstance(fate, Reason):
        occupy(pool, hold, 1)
    future = pool.options(deadline=1.0).submit(task)
    future.add_done_callback(lambda _: seen.append(check(pool.stats())))
    if fate is Reason.EXPIRED:
        clock.advance(1.0)
        pool._engine.settlement.drop_expired()
    elif fate is Reason.CANCELLED:
        assert future.cancel()
    elif fate is Reason.SHUTDOWN:
        pool.shutdown(wait=False, cancel_futures=True)
        _outcome(future)  # before the worker is let go, which would take it
    hold.release()
    _outcome(future)
    until(lambda: seen)  # by the worker, or by whom the stop or the watchdog has make it
    pool.stop(PATIENCE)
    (stats,) = seen
    if isinstance(fate, Result):
        assert (stats.completed[fate], stats.running, stats.queued) == (1, 0, 0)
    else:
        assert (stats.dropped[fate], stats.queued) == (1, 0)


def test_whoever_wakes_up_finds_the_task_counted(make_pool: MakePool, switching: None) -> None:
    """However the threads are switched, a result that is read is in the numbers that are read after it."""
    pool = make_pool(2)
    for number in range(1, 1_001):
        pool.submit(int).result(PATIENCE)
        stats = check(pool.stats())
        assert (stats.completed[Result.OK], stats.in_flight) == (number, 0)


def test_every_outcome_once(make_pool: MakePool, registry: CollectorRegistry, hold: BlockingTask) -> None:
    """One task of each fate, each counted once and under its own word, in ``stats`` and in a scrape."""
    pool = make_pool(1, queue_capacity=5)
    before = scrape(registry)
    check_scrape(before, "test")

    def fail() -> None:
        raise TaskError

    def leave() -> None:
        raise SystemExit

    for task in (int, fail, leave):
        pool.submit(task).exception(PATIENCE)
    occupy(pool, hold, 1)
    expired = pool.options(deadline=0.001).submit(int)
    cancelled = pool.submit(int)
    assert cancelled.cancel()
    expired.exception(PATIENCE)  # the watchdog sweeps it
    queued = fill(pool, int)
    with pytest.raises(PoolFullError):
        pool.submit(int)
    during = scrape(registry)
    check_scrape(during, "test")
    check_counters(before, during)
    stats = check(pool.stats())
    assert (stats.running, stats.queued) == (1, 5)
    pool.shutdown(wait=False, cancel_futures=True)
    for future in queued:
        assert isinstance(_outcome(future), BaseException)
    hold.release()
    report = pool.stop(PATIENCE)
    assert (report.dropped, report.completed, report.abandoned) == (5, 1, ())
    stats = check(pool.stats())
    assert {result: count for result, count in stats.completed.items() if count} == {
        Result.OK: 2,
        Result.ERROR: 1,
        Result.PANIC: 1,
    }
    assert {reason: count for reason, count in stats.dropped.items() if count} == {
        Reason.FULL: 2,
        Reason.EXPIRED: 1,
        Reason.CANCELLED: 1,
        Reason.SHUTDOWN: 5,
    }
    assert (stats.submitted, stats.offered, stats.in_flight) == (11, 13, 0)
    after = scrape(registry)
    check_scrape(after, "test")
    check_counters(during, after)
    assert after['workerpool_dropped_total{pool="test",reason="shutdown"}'] == 5


def _outcome(future: Any) -> Any:
    try:
        return future.result(PATIENCE)
    except BaseException as error:  # noqa: BLE001
        return error
