"""A campaign: many threads hammer one pool in every way there is, and keep books of their own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from prodpool import (
    InstrumentedPool,
    PoolStats,
    Reason,
    RejectedError,
    Result,
    StopReport,
    TaskExpiredError,
    WorkerLostError,
)
from tests.helpers.accounting import check, check_counters, check_scrape, scrape
from tests.helpers.tasks import TaskError

# Seconds after which a campaign is stuck; on a busy machine it may well take half a minute.
LONG = 100.0
# Looks at the numbers that there are at least while all goes on.
SCRAPES = 20


@dataclass
class Books:
    """What the submitters, and the tasks themselves, have seen with their own eyes.

    A deque's append is one atomic step, so everything here may be written from any thread.
    """

    calls: deque[None] = field(default_factory=deque)
    refused: deque[Reason] = field(default_factory=deque)
    futures: deque[Future[Any]] = field(default_factory=deque)
    expired_in_line: deque[None] = field(default_factory=deque)
    # Coroutines that went away while they stood in line: whether their task was let in nobody can tell,
    # but if it ran, it has an entry in `ended`.
    walked_away: deque[None] = field(default_factory=deque)
    walkers_ran: deque[None] = field(default_factory=deque)
    ended: deque[Result] = field(default_factory=deque)

    def fates(self) -> Counter[str]:
        """Sort the futures by what became of them."""
        fates: Counter[str] = Counter()
        for future in self.futures:
            assert future.done(), future
            if future.cancelled():
                fates["cancelled"] += 1
                continue
            error = future.exception(0)
            if error is None:
                fates["ok"] += 1
            elif isinstance(error, TaskExpiredError | WorkerLostError):
                fates[type(error).__name__] += 1
            else:
                fates["panic" if not isinstance(error, Exception) else "error"] += 1
        return fates


class Tasks:
    """The tasks of a campaign; each writes down how it ended as the last thing it does."""

    def __init__(self, pool: InstrumentedPool, books: Books) -> None:
        self.pool = pool
        self.books = books

    def ok(self, value: int = 0) -> int:
        self.books.ended.append(Result.OK)
        return value

    def error(self) -> None:
        self.books.ended.append(Result.ERROR)
        raise TaskError

    def panic(self) -> None:
        self.books.ended.append(Result.PANIC)
        raise SystemExit(3)

    def slow(self) -> None:
        threading.Event().wait(0.001)
        self.books.ended.append(Result.OK)

    def nested(self) -> None:
        """Submit to the own pool and wait, as far as that lets a worker."""
        inner = self.admit(lambda: self.pool.submit(self.ok, 7))
        if inner is not None:
            with contextlib.suppress(CancelledError, WorkerLostError):  # a stop may be quicker
                assert inner.result(LONG) == 7
        self.books.ended.append(Result.OK)

    def walker(self) -> None:
        self.books.walkers_ran.append(None)
        self.books.ended.append(Result.OK)

    def admit(self, submit: Callable[[], Future[Any]]) -> Future[Any] | None:
        """Make one call and write down what came of it."""
        self.books.calls.append(None)
        try:
            future = submit()
        except RejectedError as error:
            self.books.refused.append(error.reason)
            return None
        except TaskExpiredError:
            self.books.expired_in_line.append(None)
            return None
        self.books.futures.append(future)
        return future


class Submitter:
    """One thread of a campaign, with dice of its own."""

    def __init__(self, number: int, tasks: Tasks, count: int, half: Callable[[], object]) -> None:
        self.dice = random.Random(number)  # noqa: S311
        self.tasks = tasks
        self.count = count
        self.half = half
        self.mine: deque[Future[Any]] = deque(maxlen=16)

    def run(self) -> None:
        for turn in range(self.count):
            if turn == self.count // 2:
                self.half()
            future = self.tasks.admit(self.way())
            if future is not None:
                self.mine.append(future)
            if self.mine and self.dice.random() < 0.15:
                self.dice.choice(self.mine).cancel()

    def fn(self) -> Callable[[], Any]:
        tasks = self.tasks
        kinds = (tasks.ok, tasks.error, tasks.panic, tasks.slow, tasks.nested)
        return self.dice.choices(kinds, (80, 6, 4, 1, 9))[0]

    def way(self) -> Callable[[], Future[Any]]:
        pool, fn, roll = self.tasks.pool, self.fn(), self.dice.random()
        if roll < 0.70:
            return lambda: pool.submit(fn)
        if roll < 0.80:
            return lambda: pool.submit_wait(fn)
        if roll < 0.90:
            seconds = self.dice.choice((0.0001, 0.001, LONG))
            return lambda: pool.options(deadline=seconds).submit(fn)
        seconds = self.dice.choice((0.0, 0.001, LONG))
        return lambda: pool.options(task="waits", wait=seconds).submit(fn)


class AsyncSubmitter(Submitter):
    """An event loop full of coroutines that submit; some of them go away while they wait."""

    SIDE_BY_SIDE = 20

    def run(self) -> None:
        asyncio.run(self.main())

    async def main(self) -> None:
        turns = iter(range(self.count))

        async def one_after_another() -> None:
            for turn in turns:
                if turn == self.count // 2:
                    self.half()
                await (self.walk_away() if self.dice.random() < 0.1 else self.stay())

        async with asyncio.TaskGroup() as group:
            for _ in range(self.SIDE_BY_SIDE):
                group.create_task(one_after_another())

    async def stay(self) -> None:
        tasks, books = self.tasks, self.tasks.books
        books.calls.append(None)
        try:
            future = await tasks.pool._submitter.submit_async(
                tasks.pool.options()._options, self.fn(), (), {}
            )
        except RejectedError as error:
            books.refused.append(error.reason)
            return
        books.futures.append(future)
        if self.dice.random() < 0.1:
            future.cancel()
        await asyncio.wait([asyncio.wrap_future(future)])

    async def walk_away(self) -> None:
        tasks, books = self.tasks, self.tasks.books
        books.calls.append(None)
        task = asyncio.ensure_future(tasks.pool.submit_async(tasks.walker))
        await asyncio.wait([task], timeout=self.dice.choice((0.0, 0.0005)))
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            books.walked_away.append(None)
            return
        error = task.exception()
        if isinstance(error, RejectedError):
            books.refused.append(error.reason)
        else:
            # It was let in before the cancel came. What it was given is not a future of the pool's own.
            assert error is None
            await asyncio.wait([task.result()])
            books.walked_away.append(None)


class Campaign:
    """Everything that goes on at once, and what is asserted meanwhile and afterwards."""

    def __init__(self, pool: InstrumentedPool, registry: CollectorRegistry) -> None:
        self.pool = pool
        self.registry = registry
        self.books = Books()
        self.tasks = Tasks(pool, self.books)
        self.half = threading.Semaphore(0)
        self.over = threading.Event()
        self.telemetry_errors: deque[BaseException] = deque()
        self.scrapes = 0
        self.scraped = threading.Event()
        self.reports: list[StopReport] = []
        self._last: dict[str, float] = {}

    def guarded(self, fn: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                fn()
            except BaseException as error:  # noqa: BLE001
                self.telemetry_errors.append(error)

        return run

    def scraper(self) -> None:
        """Check law, bounds and counters in every scrape and every snapshot, as long as it lasts."""
        try:
            while not self.over.wait(0.003):
                self.look()
        finally:
            self.scraped.set()  # nobody waits for one that has found something

    def look(self) -> None:
        samples = scrape(self.registry)
        check_scrape(samples, self.pool.name)
        check_counters(self._last, samples)
        self._last = samples
        check(self.pool.stats())
        self.scrapes += 1
        if self.scrapes >= SCRAPES:
            self.scraped.set()

    def half_done(self) -> None:
        """Go on with the other half once it has been looked at often enough, which it is by now as a rule."""
        self.half.release()
        self.scraped.wait(LONG)

    def pauser(self) -> None:
        while not self.over.wait(0.02):
            self.pool.pause()
            self.over.wait(0.002)
            self.pool.resume()

    def stopper(self, deadline: float, submitters: int) -> None:
        for _ in range(submitters // 2):
            assert self.half.acquire(timeout=LONG)
        self.reports.append(self.pool.stop(deadline))

    def run(self, *, submitters: int, each: int, stop: float | None) -> None:
        """Hammer away: a tenth of the submitters are event loops; ``stop`` is the deadline of a stop."""
        crew: list[Submitter] = [
            (AsyncSubmitter if number % 10 == 9 else Submitter)(number, self.tasks, each, self.half_done)
            for number in range(submitters)
        ]
        jobs = [one.run for one in crew]
        if stop is not None:
            jobs += [lambda: self.stopper(stop, submitters // 2) for _ in range(2)]
        threads = [threading.Thread(target=self.guarded(job)) for job in jobs]
        watchers = [threading.Thread(target=self.guarded(job)) for job in (self.scraper, self.pauser)]
        for thread in [*watchers, *threads]:
            thread.start()
        for thread in threads:
            thread.join(LONG)
        stuck = [thread for thread in threads if thread.is_alive()]
        left = wait(self.books.futures, timeout=0 if stuck else LONG).not_done
        self.over.set()
        for thread in watchers:
            thread.join(LONG)
        if self.telemetry_errors:
            raise self.telemetry_errors[0]
        assert not stuck, (len(stuck), self.pool.stats())
        assert not left, (len(left), self.pool.stats())
        if stop is not None:
            # A task that the stop gave up on has a result, and may be a moment from its end.
            self.pool._engine.backend.shutdown(wait=True)
        self.look()

    def balance(self) -> PoolStats:
        """Compare the pool's numbers with the books: they must be equal, one by one."""
        stats, books = check(self.pool.stats()), self.books
        fates, refused, ended = books.fates(), Counter(books.refused), Counter(books.ended)
        assert stats.in_flight == 0
        assert stats.offered == len(books.calls)
        assert {result: ended[result] for result in Result} == dict(stats.completed)
        # One that the stop gave up on, handed to a worker that had not begun it, may expire there yet.
        expired_late = stats.dropped[Reason.EXPIRED] - len(books.expired_in_line) - fates["TaskExpiredError"]
        assert 0 <= expired_late <= fates["WorkerLostError"]
        assert stats.dropped[Reason.BREAKER_OPEN] == refused[Reason.BREAKER_OPEN]
        # Who walked away unrun was refused, or let in and cancelled, or met the stop.
        unknown = len(books.walked_away) - len(books.walkers_ran)
        cancelled = stats.dropped[Reason.CANCELLED] + stats.dropped[Reason.SHUTDOWN]
        extra = {
            "full": stats.dropped[Reason.FULL] - refused[Reason.FULL],
            "closed": stats.dropped[Reason.CLOSED] - refused[Reason.CLOSED],
            "cancelled": cancelled - fates["cancelled"],
        }
        assert sum(extra.values()) == unknown, (extra, unknown)
        assert min(extra.values()) >= 0, extra
        admitted = len(books.futures) + len(books.expired_in_line) + len(books.walkers_ran)
        assert stats.submitted == admitted + extra["cancelled"]
        # Each future says what its task did; one that was abandoned says only that.
        told = fates["ok"] + fates["error"] + fates["panic"] + fates["WorkerLostError"]
        assert told - expired_late == sum(stats.completed.values()) - len(books.walkers_ran)
        return stats
