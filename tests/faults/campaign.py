"""Make a fault happen at each point of a scenario in turn, and judge the pool after each.

Every point has a pool of its own. A verdict that takes its time is waited for beside the next points. Every
eighth pool is left to the interpreter's exit, which has to end all the same.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from tests.faults.cases import Case
from tests.faults.points import places
from tests.faults.verdict import judge

# Seconds after which a verdict is taken to hang: whatever the pool is asked there is bounded by less.
HANGS = 40.0
HANGS_REMOTE = 150.0
# Seconds that a verdict gets before the next point is begun beside it, and how many may be open: fewer where
# each has processes to start.
SOON = 0.01
BESIDE = 12
BESIDE_REMOTE = 5
LEAVE_EVERY = 8
MOST_POINTS = 3_000
# Seconds in which the process ends by itself, or says where it hangs: more than any of our deadlines at exit.
# For want of memory CPython's own executor may have lost the lock of a future, and its thread is joined.
ENDING = 90.0
# All of the code that a verdict may hang in.
ANYWHERE = os.sep
left: list[Case] = []


class Fault(Protocol):
    """Happens once inside ``with``, at the point it was made for; a point of 0 means never.

    Attributes:
        errors: What it raises; anything else that reaches the caller is wrong.
        surely: Whether it must reach the caller.
        fragile: Whether CPython itself may crash of it, so that each point is announced.
        misses: Points in a row at which nothing happens before a scenario is taken to be over.
        where: The place where it happened; None if it did not.
        seen: How many points there are; 0 if that cannot be told.
    """

    errors: tuple[type[BaseException], ...]
    surely: bool
    fragile: bool
    misses: int
    where: str | None
    seen: int

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def hit_another(self) -> bool:
        """Tell whether it has ended a thread that is not the pool's, on which the pool depends."""
        ...


@dataclass
class Verdict:
    """What a thread of its own finds out about one pool."""

    point: int
    where: str | None
    problems: list[str]
    case: Case
    leave: bool
    fault: Fault
    began: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        self.thread.join(SOON)

    def _run(self) -> None:
        try:
            self.problems += judge(self.case, leave=self.leave)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the pool is broken
            self.problems.append(f"{error!r}")

    def wait(self) -> None:
        """Wait for the thread, or say where it hangs."""
        hangs = HANGS_REMOTE if self.case.remote else HANGS
        self.thread.join(max(0.0, self.began + hangs - time.monotonic()))
        if self.thread.is_alive():
            frame = sys._current_frames().get(self.thread.ident or 0)
            self.problems.append("the verdict hangs: " + " < ".join(places(frame, ANYWHERE)))


def strike(case: Case, fault: Fault) -> list[str]:
    """Do what the case is about while the fault happens; return what is wrong with what the caller saw."""
    gc.disable()  # an error in a finalizer reaches nobody
    try:
        with fault:
            case.act()
    except fault.errors:
        return []
    except BaseException as error:  # noqa: BLE001  # any other is one that replaced it
        return [f"the caller got {error!r}"]
    finally:
        gc.enable()
    surely = fault.surely and not issubclass(fault.errors[0], case.keeps)
    return ["the error did not reach the caller"] if surely and fault.where is not None else []


def try_point(setup: Callable[[], Case], fault: Fault, point: int) -> Verdict:
    """Have the fault happen to a new pool; return the verdict that has begun."""
    case = setup()
    problems = strike(case, fault)
    # Left for good only if it was stopped by nobody: the exit is what is tried then.
    leave = point % LEAVE_EVERY == 1 and not case.may_stop and not case.remote
    if leave:
        left.append(case)
    verdict = Verdict(point, fault.where, problems, case, leave, fault)
    verdict.start()
    return verdict


class Campaign:
    """One scenario at all of its points, or at a sample of them."""

    def __init__(self, name: str, setup: Callable[[], Case], make: Callable[[int], Fault]) -> None:
        self._name = name
        self._setup = setup
        self._make = make
        self._pending: list[Verdict] = []
        self.broken = 0

    def run(self, options: argparse.Namespace) -> None:
        """Try the points that the options ask for; give up after so many broken pools as they say."""
        sound = self._make(0)
        self._pending.append(try_point(self._setup, sound, 0))
        if sound.fragile:
            self._settle(0)  # the first fault must not happen to this verdict; see below
        tried, missed = 0, 0
        for point in _chosen(sound.seen, options):
            fault = self._make(point)
            if fault.fragile:
                say(scenario=self._name, begun=point)
            verdict = try_point(self._setup, fault, point)
            self._pending.append(verdict)
            # One that may happen in any thread must not happen to the verdict about another pool.
            beside = 0 if fault.fragile else BESIDE_REMOTE if verdict.case.remote else BESIDE
            self._settle(beside if verdict.thread.is_alive() else min(beside, len(self._pending) - 1))
            tried += fault.where is not None
            missed = missed + 1 if fault.where is None else 0
            # A point may be missed because there are fewer this time.
            over = missed >= fault.misses and point >= sound.seen and not options.points
            if over or self.broken >= options.most:
                break
        self._settle(0)
        points = max(sound.seen, tried)
        say(
            scenario=self._name, points=points, tried=tried, broken=self.broken, python=sys.version.split()[0]
        )

    def _settle(self, room: int) -> None:
        """Collect verdicts until only ``room`` are open, those that are there first."""
        while len(self._pending) > room:
            done = next((each for each in self._pending if not each.thread.is_alive()), self._pending[0])
            done.wait()
            self._pending.remove(done)
            if done.problems and not done.fault.hit_another():
                self.broken += 1
                say(scenario=self._name, point=done.point, where=done.where, problems=done.problems)


def _chosen(total: int, options: argparse.Namespace) -> Iterator[int]:
    """Yield the points to try: the one asked for, a sample, or all until there is none more."""
    if options.only:
        yield options.only
    elif options.points is None:
        yield from range(1 + options.after, MOST_POINTS)
    elif options.points >= total > 0:
        yield from range(1 + options.after, 1 + total)
    elif not total:
        yield from range(1 + options.after, 1 + options.points)
    else:
        step = total / options.points
        first = random.Random(options.seed).uniform(0, step)  # noqa: S311
        yield from (1 + int(first + step * number) for number in range(options.points))


def say(**fields: object) -> None:
    """Print one JSON line."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return the options that all programs share."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="after which all stacks are dumped")
    return parser


def begin(options: argparse.Namespace) -> None:
    """Have a hang end in a dump of all stacks."""
    faulthandler.dump_traceback_later(options.seconds, exit=True)


def end(*, broken: bool) -> None:
    """Let the interpreter end by itself, unless what is broken would hold it up."""
    faulthandler.dump_traceback_later(ENDING, exit=True)
    say(ending=time.monotonic())
    if broken:
        os._exit(1)


def main(
    about: str | None,
    make: Callable[[int], Fault],
    scenarios: Mapping[str, Callable[[], Case]],
    groups: Mapping[str, Sequence[str]],
) -> None:
    """Run a campaign over the scenarios that the command line names."""
    arguments = parser(about)
    arguments.add_argument("names", nargs="+")
    arguments.add_argument("--only", type=int, help="the one point to try")
    arguments.add_argument("--after", type=int, default=0, help="the last point not to try")
    arguments.add_argument("--points", type=int, help="how many to try of each scenario; all if not given")
    arguments.add_argument("--most", type=int, default=1_000_000, help="broken pools after which to give up")
    options = arguments.parse_args()
    # Each point starts processes: they come with the package imported, which takes most of their time else.
    multiprocessing.set_forkserver_preload(["__main__", "prodpool.workers.in_worker.call_loop"])
    begin(options)
    broken = 0
    for name in options.names:
        for scenario in scenarios if name == "all" else groups.get(name, [name]):
            campaign = Campaign(scenario, scenarios[scenario], make)
            campaign.run(options)
            broken += campaign.broken
    end(broken=broken > 0)
