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
from prodpool.admission.gate import ThreadWaiter
from prodpool.dispatch import Dispatcher, Offer
from prodpool.futures import FINISHED, PoolFuture
from prodpool.task import Task, TaskOptions
from prodpool.telemetry.ledger import Ledger
from prodpool.testing import ManualClock
from prodpool.vocabulary import State
from prodpool.worker import Worker
from tests.api.gates import until
from tests.core.rig import (
    AFTER_ADMISSION,
    PATIENCE,
    BoomError,
    Hold,
    check,
    check_counters,
    check_scrape,
    fill,
    occupy,
    scrape,
)
from tests.support import MakePool


class Home:
    """A home for futures that are never waited for."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.lock = dispatcher.lock

    def cancel(self, task: Any) -> bool:  # noqa: ARG002
        return False

    def assist(self, task: Any) -> None:
        """Not asked here."""

    def callback_failed(self, fn: Any, error: BaseException) -> None:  # noqa: ARG002
        raise error


class DispatcherMachine(RuleBasedStateMachine):
    """Every task, worker and waiter is held here, so that each invariant can be checked from outside."""

    @initialize(workers=st.integers(1, 3), capacity=st.integers(0, 3), prefetch=st.integers(0, 2))
    def build(self, workers: int, capacity: int, prefetch: int) -> None:
        self.ticks = itertools.count()
        self.dispatcher = Dispatcher(
            workers=workers,
            queue_capacity=capacity,
            prefetch=prefetch,
            ledger=Ledger((0.1, 1.0)),
            now=lambda: float(next(self.ticks)),
        )
        self.home = Home(self.dispatcher)
        self.admitted: list[Task] = []
        self.waiters: list[ThreadWaiter] = []
        self.told: list[ThreadWaiter] = []
        self.coming: list[Worker] = []
        self.at_work: dict[Worker, Task] = {}
        self.returning: list[Worker] = []
        self.idle: list[Worker] = []
        # With its helper, which has to end it before its own task.
        self.helped: list[tuple[Worker, Task]] = []
        self.finished: list[Task] = []
        self.dropped: list[Task] = []
        self.ran = 0

    # what submitters do

    def task(self) -> Task:
        task = Task(int, (), {}, Context(), float(next(self.ticks)), TaskOptions())
        task.future = PoolFuture(self.home, task)
        return task

    def offer(self, task: Task, waiter: ThreadWaiter | None) -> Offer:
        offer = self.dispatcher.offer(task, waiter)
        while offer is Offer.NEEDS_WORKER:
            self.start()
            offer = self.dispatcher.offer(task, waiter)
        if offer is Offer.ADMITTED:
            self.admitted.append(task)
        self.look()
        return offer

    def start(self) -> None:
        worker = Worker("test", lambda: 0.0)
        if self.dispatcher.reserve(worker):
            self.coming.append(worker)
            self.look()

    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        for _ in range(count):
            offer = self.offer(self.task(), None)
            if offer is Offer.FULL:
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
        if self.offer(waiter.task, waiter) is Offer.WAITING:
            self.waiters.append(waiter)
            self.assert_full()

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def walk_away(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiters))
        assert self.dispatcher.step_out(waiter)
        self.waiters.remove(waiter)

    @rule(data=st.data(), reason=st.sampled_from([Reason.CANCELLED, Reason.EXPIRED]))
    def discard(self, data: st.DataObject, reason: Reason) -> None:
        queued = [task for task in self.admitted if task.queued]
        if queued:
            task = data.draw(st.sampled_from(queued))
            assert self.dispatcher.discard(task, reason)
            assert not self.dispatcher.discard(task, reason)
            self.dropped.append(task)
            self.look()

    # what workers do

    @rule()
    def start_late(self) -> None:
        # A submitter that heard NEEDS_WORKER a while ago; what it heard may no longer be so.
        before = len(self.dispatcher.roster.workers)
        self.start()
        assert len(self.dispatcher.roster.workers) <= max(before, self.dispatcher.roster.max_workers)

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def come_up(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.coming))
        self.coming.remove(worker)
        self.took(worker, self.dispatcher.begin(worker))

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def never_come_up(self, data: st.DataObject) -> None:
        # The backend refused it: only what no other task has relied on is taken back here.
        worker = data.draw(st.sampled_from(self.coming))
        if self.dispatcher.queue.length < self.dispatcher.roster.starting:
            self.coming.remove(worker)
            assert self.dispatcher.lose(worker, began=False) is None

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
            self.dispatcher.ledger.ok += 1
            self.dispatcher.roster.release(worker)
            task.future._take(FINISHED, None, None)
            following = self.dispatcher.take(worker)
        self.dispatcher.line.tell()
        self.took(worker, following)

    @precondition(lambda self: self.can_finish())
    @rule(data=st.data())
    def finish_slowly(self, data: st.DataObject) -> None:
        # Its task is settled; the worker is still busy with a log line or a done-callback.
        worker = data.draw(st.sampled_from(self.can_finish()))
        task = self.at_work.pop(worker)
        self.finished.append(task)
        with self.dispatcher.lock:
            self.dispatcher.ledger.ok += 1
            woken = self.dispatcher.release_running(worker)
            task.future._take(FINISHED, None, None)
        self.returning.append(worker)
        self.dispatcher.wake(woken)
        self.look()

    @precondition(lambda self: self.returning)
    @rule(data=st.data())
    def come_back(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.returning))
        self.returning.remove(worker)
        with self.dispatcher.lock:
            following = self.dispatcher.take(worker)
        self.dispatcher.line.tell()
        self.took(worker, following)

    def took(self, worker: Worker, task: Task | None) -> None:
        if task is not None:
            self.at_work[worker] = task
        elif not worker.dismissed:
            self.idle.append(worker)
        self.look()

    @precondition(lambda self: self.idle)
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.idle))
        assert self.dispatcher.leave(worker)
        assert not self.dispatcher.leave(worker)
        self.idle.remove(worker)

    # Only threads help, and nothing is prefetched for threads.
    @precondition(lambda self: self.at_work and not self.dispatcher.prefetch)
    @rule(data=st.data())
    def help(self, data: st.DataObject) -> None:
        queued = [task for task in self.admitted if task.queued]
        if queued:
            task = data.draw(st.sampled_from(queued))
            assert self.dispatcher.take_out(task)
            self.helped.append((data.draw(st.sampled_from(list(self.at_work))), task))

    @precondition(lambda self: self.helped)
    @rule()
    def finish_helped(self) -> None:
        _, task = self.helped.pop()
        self.finished.append(task)
        with self.dispatcher.lock:
            self.dispatcher.ledger.ok += 1
            woken = self.dispatcher.release_assisted()
            task.future._take(FINISHED, None, None)
        self.dispatcher.wake(woken)
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
        for _ in range(self.dispatcher.close()):
            self.start()
        for waiter in self.waiters:
            assert waiter.admitted is False
            assert waiter._lock.acquire(blocking=False)
        self.waiters.clear()
        self.look()

    @precondition(lambda self: self.dispatcher.state is State.DRAINING)
    @rule()
    def drop(self) -> None:
        self.dropped += self.dispatcher.drop_queued(Reason.SHUTDOWN)

    def look(self) -> None:
        """Follow what the dispatcher did on its own: who was let in, was given a task or was sent away."""
        for waiter in [waiter for waiter in self.waiters if waiter.admitted]:
            assert waiter._lock.acquire(blocking=False), "let in and not told"
            self.waiters.remove(waiter)
            self.admitted.append(waiter.task)
        for worker in [worker for worker in self.idle if not worker.parked]:
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
            there, ledger = self.dispatcher.occupancy(), self.dispatcher.ledger
            dropped = sum(ledger.dropped[reason] for reason in AFTER_ADMISSION)
            assert ledger.submitted == ledger.ok + dropped + there.queued + there.running
        waiting = [task for task in self.admitted if task.queued]
        assert ledger.submitted == len(self.admitted)
        assert (ledger.ok, dropped) == (len(self.finished), len(self.dropped))
        assert there.queued + there.running == len(waiting) + len(self.at_work) + len(self.helped)

    @invariant()
    def bounded(self) -> None:
        dispatcher = self.dispatcher
        with dispatcher.lock:
            there = dispatcher.occupancy()
        assert 0 <= there.queued <= dispatcher.queue_capacity
        # A pool made smaller interrupts nobody, so it may go on running what it ran, and nothing more.
        assert 0 <= there.running <= max(dispatcher.workers(), self.ran)
        self.ran = there.running

    @invariant()
    def in_order(self) -> None:
        assert [task for task in self.admitted if task.queued] == self.dispatcher.queue.snapshot()
        assert [waiter for waiter in self.waiters if waiter.queued] == self.dispatcher.line.snapshot()
        assert all(waiter.queued for waiter in self.waiters)

    @invariant()
    def everybody_is_known(self) -> None:
        dispatcher = self.dispatcher
        assert dispatcher.roster.parked == self.idle or set(dispatcher.roster.parked) == set(self.idle)
        assert dispatcher.roster.starting == len(self.coming)
        assert dispatcher.roster.running == len(self.at_work)
        assert dispatcher.assisted == len(self.helped)
        assert dispatcher.roster.workers == {*self.coming, *self.idle, *self.at_work, *self.returning}
        assert not dispatcher.line.to_tell

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        dispatcher = self.dispatcher
        queued, line = dispatcher.queue.length, dispatcher.line.length
        if line:
            # Nobody else can get past them: a submit at this moment finds no room.
            assert queued + dispatcher.assisted >= dispatcher._room()
        if dispatcher.paused:
            return
        # A helped task may keep the slot of a worker that came up for it in vain.
        places = dispatcher.workers() + dispatcher.queue_capacity
        full = dispatcher.roster.running + queued + dispatcher.assisted >= places
        assert not (dispatcher.roster.parked and queued)
        # Who stands in line may have to wait for a worker that is on its way back, and takes it.
        assert not (dispatcher.roster.parked and line) or full or self.returning
        # Some loop comes by, or the watchdog starts what is missing.
        assert not (queued or line) or dispatcher.roster.workers or dispatcher.missing()


DispatcherMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # which a stalled machine is
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),  # explaining takes minutes
)
TestDispatcherAgainstModel = DispatcherMachine.TestCase


@pytest.mark.parametrize("fate", [Result.OK, Result.ERROR, Result.PANIC, *AFTER_ADMISSION])
def test_whoever_hears_of_a_task_finds_it_counted(
    make_pool: MakePool, hold: Hold, fate: Result | Reason
) -> None:
    """When a done-callback runs, the numbers include that task already, and its place is free."""
    clock = ManualClock()
    pool = make_pool(1, queue_capacity=1, clock=clock, hung_after=1_000.0)
    seen: list[PoolStats] = []

    def task() -> None:
        hold()
        if fate is Result.ERROR:
            raise BoomError
        if fate is Result.PANIC:
            raise SystemExit

    if isinstance(fate, Reason):
        occupy(pool, hold, 1)
    future = pool.options(deadline=1.0).submit(task)
    future.add_done_callback(lambda _: seen.append(check(pool.stats())))
    if fate is Reason.EXPIRED:
        clock.advance(1.0)
        pool._engine.runner.drop_expired()
    elif fate is Reason.CANCELLED:
        assert future.cancel()
    elif fate is Reason.SHUTDOWN:
        pool.shutdown(wait=False, cancel_futures=True)
        _outcome(future)  # before the worker is let go, which would take it
    hold.let_go()
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


def test_every_outcome_once(make_pool: MakePool, registry: CollectorRegistry, hold: Hold) -> None:
    """One task of each fate, each counted once and under its own word, in ``stats`` and in a scrape."""
    pool = make_pool(1, queue_capacity=5)
    before = scrape(registry)
    check_scrape(before, "test")

    def fail() -> None:
        raise BoomError

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
    hold.let_go()
    report = pool.stop(PATIENCE)
    assert (report.dropped, report.completed, report.abandoned) == (5, 1, ())
    stats = check(pool.stats())
    assert dict(stats.completed) == {Result.OK: 2, Result.ERROR: 1, Result.PANIC: 1, Result.TIMEOUT: 0}
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
