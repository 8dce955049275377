"""What is interrupted: each scenario sets a pool up and says what the main thread then does with it.

A scenario is named ``what:kind``, such as ``submit_parked:threads``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import as_completed, wait
from functools import partial

from prometheus_client import generate_latest

from prodpool import BreakerPolicy, InstrumentedPool, RejectedError, Result
from tests.faults import inside
from tests.faults.cases import DRAIN, PATIENCE, Case, at_rest, build, noop, prepare
from tests.helpers import accounting
from tests.helpers.waiting import poll

THREADS = ("executor", "threads")
PROCESSES = ("process_pool", "processes")
SCENARIOS: dict[str, Callable[[], Case]] = {}
# Groups that run in a process of their own, each with the names of its scenarios.
GROUPS: dict[str, list[str]] = {}


def scenario(group: str, *kinds: str) -> Callable[[Callable[[str], Case]], Callable[[str], Case]]:
    """Register a function under its name, once for each kind of pool."""

    def register(setup: Callable[[str], Case]) -> Callable[[str], Case]:
        for kind in kinds:
            name = f"{setup.__name__.strip('_')}:{kind}"
            SCENARIOS[name] = partial(setup, kind)
            # What differs between the two kinds of process pool is little; the second has a group of its own.
            own = "process_pool" if kind == "process_pool" else group
            GROUPS.setdefault(own, []).append(name)
        return setup

    return register


@scenario("submit", *THREADS)
def submit_parked(kind: str) -> Case:
    case = prepare(kind)
    poll(lambda: inside.idle_workers(case.pool) == 1, 0.05, 0.0005)
    case.act = case.submit
    return case


@scenario("submit", *THREADS)
def submit_first(kind: str) -> Case:
    case = prepare(kind, warm=False)
    case.act = case.submit
    return case


@scenario("submit", "executor")
def submit_second_worker(kind: str) -> Case:
    case = prepare(kind, workers=2, warm=False)
    case.hold()
    case.act = case.submit
    return case


@scenario("submit", *THREADS)
def submit_queued(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = case.submit
    return case


@scenario("submit", "executor")
def submit_full(kind: str) -> Case:
    case = prepare(kind, capacity=0)
    case.hold()

    def act() -> None:
        with contextlib.suppress(RejectedError):
            case.submit()

    case.act = act
    return case


@scenario("submit", *THREADS)
def submit_deadline(kind: str) -> Case:
    """A task that expires while it waits."""
    case = prepare(kind)
    case.hold()
    view = case.pool.options(deadline=0.01)
    case.act = lambda: case.futures.append(view.submit(noop))
    return case


@scenario("submit", "executor")
def submit_paused(kind: str) -> Case:
    case = prepare(kind)
    case.pool.pause()
    case.act = case.submit
    case.again = case.pool.resume
    return case


@scenario("submit", "executor")
def caller_runs(kind: str) -> Case:
    case = prepare(kind, capacity=0, overload="caller_runs")
    case.keeps = (SystemExit,)
    case.hold()
    case.act = case.submit
    return case


@scenario("submit", "executor")
def caller_runs_named(kind: str) -> Case:
    """A task that its caller runs, counted by name: those of all names are as many as have ended."""
    case = prepare(kind, capacity=0, overload="caller_runs", task_metrics=("noop",))
    case.keeps = (SystemExit,)
    case.hold()
    case.told = partial(counted_by_name, case)
    case.act = case.submit
    return case


def counted_by_name(case: Case) -> str | None:
    """Return what complains unless the counts by name add up to those of the pool, result by result."""
    counted = dict.fromkeys(Result, 0.0)
    samples = accounting.scrape(case.registry)
    for result in Result:
        for task in ("noop", "other"):
            labels = f'pool="{case.pool.name}",result="{result.value}",task="{task}"'
            counted[result] += samples[f"workerpool_tasks_finished_total{{{labels}}}"]
    completed = case.pool.stats().completed
    return None if counted == completed else f"by name there are {counted}, in all {completed}"


@scenario("submit", "executor")
def map_(kind: str) -> Case:
    case = prepare(kind)
    case.act = lambda: list(case.pool.map(str, range(3)))
    return case


@scenario("wait", *THREADS)
def submit_wait(kind: str) -> Case:
    """A submitter that stands in line until the held task ends."""
    case = prepare(kind, capacity=0)
    case.hold()

    def act() -> None:
        case.release_when(lambda: inside.in_line(case.pool) > 0)
        case.futures.append(case.pool.submit_wait(noop))

    case.act = act
    return case


@scenario("wait", "executor")
def submit_block(kind: str) -> Case:
    case = prepare(kind, capacity=0, overload="block")
    case.hold()

    def act() -> None:
        case.release_when(lambda: inside.in_line(case.pool) > 0)
        case.submit()

    case.act = act
    return case


@scenario("wait", "executor")
def submit_wait_in_vain(kind: str) -> Case:
    """A submitter whose wait is bounded and ends before there is a slot."""
    return waiting_in_vain(kind, RejectedError, wait=0.002)


def waiting_in_vain(
    kind: str, error: type[Exception], *, wait: float | None = None, deadline: float | None = None
) -> Case:
    """Return a case of a submitter that waits for a slot until that ends with ``error``."""
    case = prepare(kind, capacity=0)
    case.hold()
    view = case.pool.options(wait=wait, deadline=deadline)

    def act() -> None:
        with contextlib.suppress(error):
            case.futures.append(view.submit_wait(noop))

    case.act = act
    return case


@scenario("wait", "executor")
def submit_async(kind: str) -> Case:
    """A coroutine that waits for a slot, and then for its result."""
    case = prepare(kind, capacity=0)
    case.hold()

    async def submit() -> int:
        case.release_when(lambda: inside.in_line(case.pool) > 0)
        return await (await case.pool.submit_async(noop))

    case.act = lambda: asyncio.run(submit())
    return case


@scenario("wait", "executor")
def cancel(kind: str) -> Case:
    """Cancelling a queued task gives its place to a thread that stands in line."""
    case = prepare(kind, capacity=1)
    case.hold()
    queued = case.submit()
    case.told = waiting_thread(case)
    case.act = queued.cancel
    return case


def waiting_thread(case: Case) -> Callable[[], str | None]:
    """Have a thread wait for a slot; return what complains unless it has got one."""
    outcome: list[str | None] = []

    def submit() -> None:
        try:
            case.futures.append(case.pool.submit_wait(noop))
        except RejectedError as error:
            outcome.append(f"the thread in submit_wait heard {error!r}")
        else:
            outcome.append(None)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    poll(lambda: inside.in_line(case.pool) > 0, PATIENCE, 0.0005)

    def told() -> str | None:
        thread.join(PATIENCE / 10)
        return outcome[0] if outcome else "the thread in submit_wait was never told"

    return told


@scenario("wait", "executor")
def result(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    future = case.submit()

    def act() -> None:
        case.release_when(lambda: False)
        future.result()

    case.act = act
    return case


@scenario("wait", "executor")
def wait_(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    future = case.submit()

    def act() -> None:
        case.release_when(lambda: False)
        wait([future])
        list(as_completed([future]))

    case.act = act
    return case


@scenario("wait", "executor")
def add_done_callback(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    future = case.submit()
    case.act = lambda: future.add_done_callback(lambda _: None)
    return case


@scenario("owner", "executor")
def pause(kind: str) -> Case:
    case = prepare(kind)
    case.act = case.pool.pause
    case.again = case.pool.resume
    return case


@scenario("owner", *THREADS)
def resume(kind: str) -> Case:
    case = prepare(kind)
    case.pool.pause()
    case.submit()
    case.submit()
    case.act = case.pool.resume

    def again() -> None:
        if inside.paused(case.pool):
            case.pool.resume()

    case.again = again
    return case


@scenario("owner", "threads")
def resize_up(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.submit()
    case.submit()
    return resized(case, 2)


@scenario("owner", "threads")
def resize_down(kind: str) -> Case:
    return resized(prepare(kind, workers=2), 1)


def resized(case: Case, workers: int) -> Case:
    """Resize; who is interrupted does it again."""
    case.workers = workers
    case.act = case.again = partial(case.pool.resize, workers)
    return case


@scenario("owner", *THREADS)
def stats(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = lambda: (case.pool.stats(), repr(case.pool))
    return case


@scenario("owner", *THREADS)
def dump(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = case.pool.dump
    return case


@scenario("owner", "executor")
def scrape(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = lambda: generate_latest(case.registry)
    return case


@scenario("owner", *THREADS)
def construct(kind: str) -> Case:
    """A pool that was not built leaves its name free, and one that was built works."""
    case = prepare(kind, warm=False)
    first, name = case.pool, f"{case.pool.name}_built"

    def act() -> None:
        case.pool = build(kind, name, 1, registry=case.registry, queue_capacity=2, drain_deadline=DRAIN)

    def again() -> None:
        first.stop(DRAIN)
        if case.pool is not first:
            return
        ends = time.monotonic() + DRAIN
        while case.pool is first:
            try:
                act()
            except ValueError:
                if time.monotonic() > ends:
                    raise
                time.sleep(0.005)

    case.act, case.again = act, again
    return case


@scenario("owner", "executor")
def breaker_submit(kind: str) -> Case:
    case = prepare(kind, breaker=BreakerPolicy(consecutive_failures=2))
    case.act = case.submit
    return case


@scenario("owner", "executor")
def breaker_half_open(kind: str) -> Case:
    """The one permit of a half-open breaker comes back, or the task has it."""
    case = prepare(kind, breaker=BreakerPolicy(consecutive_failures=1, open_for=0.002), hung_after=1000.0)
    case.pool.submit(divmod, 1, 0).exception(PATIENCE)
    at_rest(case.pool)
    time.sleep(0.003)  # open_for is measured by the real clock
    case.act = case.submit
    return case


@scenario("stop", *THREADS)
def stop(kind: str) -> Case:
    return stopping(prepare(kind), lambda pool: pool.stop(DRAIN))


@scenario("stop", "executor")
def stop_at_once(kind: str) -> Case:
    """A stop whose deadline passes with tasks queued and running."""
    return stopping(prepare(kind), lambda pool: pool.stop(0.01), hasty=True)


@scenario("stop", "executor")
def stop_waiter(kind: str) -> Case:
    """A stop while a thread stands in line, which must hear of it."""
    case = prepare(kind, capacity=1)
    case.hold()
    case.submit()
    told = waiting_thread(case)
    case.told = lambda: None if (heard := told()) is None or "PoolClosedError" in heard else heard
    case.may_stop = True

    def act() -> None:
        case.release()
        case.pool.stop(DRAIN)

    case.act = act
    return case


@scenario("stop", *THREADS)
def shutdown_no_wait(kind: str) -> Case:
    return stopping(prepare(kind), lambda pool: pool.shutdown(wait=False))


@scenario("stop", "executor")
def with_block(kind: str) -> Case:
    case = prepare(kind)

    def leave(pool: InstrumentedPool) -> None:
        with pool:
            pass

    return stopping(case, leave)


@scenario("stop", "executor")
def stop_idle(kind: str) -> Case:
    case = prepare(kind)
    case.may_stop = True
    case.act = lambda: case.pool.stop(DRAIN)
    return case


def stopping(case: Case, stop: Callable[[InstrumentedPool], object], *, hasty: bool = False) -> Case:
    """Stop a pool with one task running and one queued."""
    case.hold()
    case.submit()
    case.may_stop, case.hasty = True, hasty

    def act() -> None:
        if not hasty:
            case.release_when(lambda: case.pool.stats().state == "draining")
        stop(case.pool)

    case.act = act
    return case


@scenario("stop", "executor")
def close_metrics(kind: str) -> Case:
    case = prepare(kind)
    case.act = case.again = case.pool.close_metrics
    return case


@scenario("remote_submit", *PROCESSES)
def submit_idle(kind: str) -> Case:
    case = prepare(kind)
    case.act = case.submit
    return case


@scenario("remote_submit", "processes")
def submit_two_workers(kind: str) -> Case:
    case = prepare(kind, workers=2)
    case.act = lambda: (case.submit(), case.submit())
    return case


@scenario("remote_submit", *PROCESSES)
def submit_busy(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = case.submit
    return case


@scenario("remote_submit", "processes")
def map_remote(kind: str) -> Case:
    """Tasks so short that most of them are sent ahead to the worker."""
    case = prepare(kind, capacity=20)
    for _ in range(2):
        list(case.pool.map(str, range(20)))
    at_rest(case.pool)
    case.act = lambda: list(case.pool.map(str, range(40)))
    return case


@scenario("remote_new", *PROCESSES)
def submit_new(kind: str) -> Case:
    case = prepare(kind, warm=False)
    case.act = case.submit
    return case


@scenario("remote_new", "processes")
def submit_timeout(kind: str) -> Case:
    case = prepare(kind)
    view = case.pool.options(timeout=20.0)
    case.act = lambda: case.futures.append(view.submit(noop))
    return case


@scenario("remote_new", "processes")
def cancel_remote(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    futures = [case.submit(), case.submit()]
    case.act = lambda: [future.cancel() for future in futures]
    return case


@scenario("remote_owner", "processes")
def stats_remote(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = lambda: (case.pool.stats(), repr(case.pool))
    return case


@scenario("remote_owner", "processes")
def dump_remote(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.act = case.pool.dump
    return case


@scenario("remote_owner", *PROCESSES)
def stop_remote(kind: str) -> Case:
    return stopping(prepare(kind), lambda pool: pool.stop(DRAIN))


@scenario("remote_owner", "processes")
def resize_remote(kind: str) -> Case:
    case = prepare(kind)
    case.hold()
    case.submit()
    case.submit()
    return resized(case, 2)


@scenario("remote_built", "processes")
def construct_remote(kind: str) -> Case:
    return construct(kind)
