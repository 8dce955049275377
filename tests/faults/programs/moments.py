"""Interrupt many pools once each, at a random moment, by a real signal whose handler raises.

By hand: ``python -m tests.faults.programs.moments 300 [--seed 1]``; with ``exit`` instead of the number it is
the recipe for SIGTERM of docs/guides/stopping.md: one pool, left to the exit that the handler asks for. The
pools are used in turn for everything there is. A JSON line is printed for each that breaks, and one at
the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import as_completed
from functools import partial
from pathlib import Path

from prometheus_client import generate_latest

import prodpool
from prodpool import BreakerPolicy, RejectedError
from tests.faults.campaign import begin, end, parser, say
from tests.faults.cases import Case, noop, prepare
from tests.faults.verdict import judge

# Seconds after the start of the calls between which the signal comes.
FROM, TO = 0.0002, 0.004
# Seconds after which a pool is used no longer if no signal has interrupted that.
ENOUGH = 0.5
# Seconds for the coroutines that a signal has interrupted to hear of it.
CANCELLED_IN = 1.0
# How often one of the pools is over worker processes, which take long to build.
REMOTE_EVERY = 12


class Moment:
    """One alarm and what its handler has done."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.came = False
        self.unraisable = False
        self.in_prodpool = False

    def handler(self, *_: object) -> None:
        self.came = True
        raise self.error(0)

    def unheard(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Note that it was raised in a finalizer, from where it reaches nobody, and whether that is ours."""
        self.unraisable = True
        self.in_prodpool |= any(is_ours(frame) for frame in traceback.extract_tb(unraisable.exc_traceback))


def submit(case: Case) -> None:
    case.submit().result()


def submit_many(case: Case) -> None:
    for _ in range(8):
        case.submit()


def submit_wait(case: Case) -> None:
    case.futures += [case.pool.submit_wait(noop) for _ in range(6)]


def deadline(case: Case) -> None:
    case.futures.append(case.pool.options(deadline=0.001).submit(noop))


def cancel(case: Case) -> None:
    for _ in range(3):
        case.submit(time.sleep, 0.0005).cancel()


def map_(case: Case) -> None:
    list(case.pool.map(str, range(6)))


def pause(case: Case) -> None:
    case.pool.pause()
    case.submit()
    case.pool.resume()


def resize(case: Case) -> None:
    case.pool.resize(1)
    case.submit()
    case.pool.resize(2)


def look(case: Case) -> None:
    case.submit()
    case.pool.stats()
    case.pool.dump()
    generate_latest(case.registry)


def complete(case: Case) -> None:
    futures = [case.submit() for _ in range(2)]
    futures[0].add_done_callback(lambda _: None)
    list(as_completed(futures))


def async_(case: Case) -> None:
    async def run() -> None:
        for _ in range(4):
            await (await case.pool.submit_async(noop))

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(run())
    finally:
        # A loop whose own first or last steps are interrupted stays this thread's running one. From 3.13 on
        # it may also say for ever that it runs, as its first step is outside its ``try``: it can't be closed.
        asyncio._set_running_loop(None)
        if not loop.is_running():
            cancel_all(loop)
            loop.close()


def cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Do as ``asyncio.run`` does, and no longer than a second.

    That would wait for ever where the signal came in the midst of the loop's own code: a callback that it has
    taken from its queue and not called yet is lost then, and with it the only one that knows of a task.
    """
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        try:
            loop.run_until_complete(asyncio.wait(tasks, timeout=CANCELLED_IN))
        except RuntimeError:
            # What stops the loop when `run` has ended was scheduled before the interrupt, and called now.
            loop.run_until_complete(asyncio.wait(tasks, timeout=CANCELLED_IN))


def fail(case: Case) -> None:
    case.submit(divmod, 1, 0).exception()


def stop(case: Case) -> None:
    case.submit()
    case.pool.stop(2.0)


def leave(case: Case) -> None:
    with case.pool:
        case.submit()


USES: list[Callable[[Case], None]] = [
    *(submit, submit_many, submit_wait, deadline, cancel, map_, pause, resize),
    *(look, complete, async_, fail, stop, leave),
]


def use(case: Case, what: Callable[[Case], None], moment: Moment, delay: float) -> list[str]:
    """Use the pool in one way until the signal comes; return what is wrong with what the caller saw."""
    signal.signal(signal.SIGALRM, moment.handler)
    sys.unraisablehook = moment.unheard
    try:
        signal.setitimer(signal.ITIMER_REAL, delay)
        repeat(case, what, moment)
    except moment.error:
        return []
    except BaseException as error:  # noqa: BLE001  # any other is one that replaced it
        return [] if replaced_by_threading(error, moment.error) else [f"the caller got {error!r}"]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    lost = moment.came and not moment.unraisable
    return ["the error did not reach the caller"] if lost else []


def repeat(case: Case, what: Callable[[Case], None], moment: Moment) -> None:
    """Use the pool again and again; a function, since ``try`` does not cover a loop's jump on 3.13."""
    ends = time.monotonic() + ENOUGH
    while time.monotonic() < ends and not moment.came:
        with contextlib.suppress(RejectedError):
            what(case)


def replaced_by_threading(error: BaseException, raised: type[BaseException]) -> bool:
    """Tell whether the caller's own wait on an event replaced the handler's error (CPython 78667).

    ``Condition.wait`` that is interrupted before it has its lock back releases it all the same, on which
    ``as_completed`` ends with RuntimeError over a bare executor too. A wait of the pool's own is not excused.
    """
    frames = traceback.extract_tb(error.__traceback__)
    return (
        isinstance(error, RuntimeError)
        and isinstance(error.__context__, raised)
        and frames[-1].filename == threading.__file__
        and not any(map(is_ours, frames))
    )


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Tell whether a frame is one of prodpool's."""
    return frame.filename.startswith(str(Path(prodpool.__file__).parent))


def build(number: int, what: Callable[[Case], None]) -> Case:
    """Build the pool for one use, of another kind each time."""
    kind = "threads" if what is resize or number % 2 else "executor"
    if number % REMOTE_EVERY == 0 and what is not resize:
        kind = "processes"
    breaker = BreakerPolicy(consecutive_failures=2, open_for=0.001) if what is fail else None
    case = prepare(kind, 2, 6, breaker=breaker)
    case.may_stop = case.hasty = what in (stop, leave)
    if what is pause:
        case.again = case.pool.resume
    elif what is resize:
        case.again = partial(case.pool.resize, 2)
    return case


def interrupt_many(pools: int, seed: int) -> int:
    """Interrupt so many pools; return how many break."""
    chance = random.Random(seed)  # noqa: S311
    broken = came = 0
    uses = itertools.cycle(USES)
    for number in range(1, pools + 1):
        what = next(uses)
        case = build(number, what)
        moment = Moment(SystemExit if number % 3 else KeyboardInterrupt)
        problems = use(case, what, moment, chance.uniform(FROM, TO))
        problems += judge(case)
        came += moment.came
        if problems:
            broken += 1
            say(scenario=f"{what.__name__}:{case.kind}", point=number, problems=problems)
    say(pools=pools, interrupted=came, broken=broken, seed=seed, python=sys.version.split()[0])
    return broken


def interrupt_and_exit(seed: int) -> None:
    """Do as docs/guides/stopping.md says: the handler exits, and the pool is drained by that."""
    case = prepare(("executor", "threads")[seed % 2], 2, 6)
    case.pool.submit(noop).add_done_callback(lambda _: say(finished=True))
    moment = Moment(SystemExit)
    sys.unraisablehook = moment.unheard
    signal.signal(signal.SIGTERM, moment.handler)
    signal.signal(signal.SIGALRM, lambda _signum, _frame: signal.raise_signal(signal.SIGTERM))
    what = USES[seed % len(USES)]
    signal.setitimer(signal.ITIMER_REAL, random.Random(seed).uniform(FROM, TO))  # noqa: S311
    while not moment.came:
        try:
            what(case)
        except RuntimeError as error:
            if moment.came and not moment.unraisable and not replaced_by_threading(error, SystemExit):
                raise
    # CPython has lost the exit in a finalizer of its own, or in a wait; it must not get lost in one of ours.
    sys.exit("the exit got lost in prodpool" if moment.in_prodpool else 0)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("pools", help='a number, or "exit"')
    options = arguments.parse_args()
    begin(options)
    if options.pools == "exit":
        interrupt_and_exit(options.seed)
    end(broken=interrupt_many(int(options.pools), options.seed) > 0)


if __name__ == "__main__":
    main()
