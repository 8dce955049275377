"""Finalizers, weakref callbacks and signal handlers use the pool wherever they come to run.

By hand: ``python -m tests.faults.programs.garbage threads finalizer cancel``. The first is the kind of pool,
the second what calls (finalizer, weakref, handler), the third what is called, or ``all``. Several threads
submit; the collector runs at every few allocations, or a timer every half millisecond. One JSON line is
printed for each call, with what is wrong with the pool afterwards.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from prodpool import InstrumentedPool, RejectedError
from tests.faults.campaign import begin, end, parser, say
from tests.faults.cases import Case, build, noop, prepare
from tests.faults.verdict import judge

SUBMITTERS = 3
# Garbage objects are collected after so many allocations; rarely enough for the submitters to get on.
THRESHOLD = (20, 2, 2)
EVERY = 0.0005
# Seconds after its time in which a submitter has to be back, and the verdict there.
BACK = 60.0
JUDGED = 60.0


@dataclass
class Stage:
    """One pool, the calls that are made of it out of turn, and how often they were."""

    case: Case
    other: InstrumentedPool
    call: Callable[[Future[Any]], object]
    calls: int = 0
    ends: float = 0.0
    last: list[Future[Any]] = field(default_factory=list)
    errors: set[str] = field(default_factory=set)

    def make(self, future: Future[Any]) -> None:
        """Call out of turn; a refusal is fine, as is a result that is not there."""
        self.calls += 1
        try:
            self.call(future)
        except (RejectedError, CancelledError, TimeoutError):
            pass
        except BaseException as error:  # noqa: BLE001  # told at the end; here nobody would hear of it
            self.errors.add(f"it raised {error!r}"[:200])


class Finalizer:
    """In a cycle with itself: what it does when it dies, it does wherever the collector runs."""

    def __init__(self, stage: Stage, future: Future[Any]) -> None:
        self.stage, self.future, self.me = stage, future, self

    def __del__(self) -> None:
        self.stage.make(self.future)


class Watched:
    """In a cycle with itself, so that only the collector ends it."""

    def __init__(self) -> None:
        self.me = self


def throw_away(stage: Stage, kind: str, future: Future[Any]) -> None:
    """Leave garbage behind that calls when it is collected."""
    if kind == "finalizer":
        Finalizer(stage, future)
    elif kind == "weakref":
        weakref.finalize(Watched(), stage.make, future).atexit = False
    else:
        stage.last[:] = [future]


def submit(stage: Stage, kind: str) -> None:
    """Submit until the time is over."""
    while time.monotonic() < stage.ends:
        with contextlib.suppress(RejectedError):
            throw_away(stage, kind, stage.case.pool.submit(noop))


def calls_of(case: Case, other: InstrumentedPool) -> dict[str, Callable[[Future[Any]], object]]:
    """Return what can be called out of turn, by name."""
    pool = case.pool
    return {
        "cancel": lambda future: future.cancel(),
        "submit": lambda _: pool.submit(noop),
        "result": lambda future: future.result(0),
        "stats": lambda _: pool.stats(),
        "dump": lambda _: pool.dump(),
        "stop": lambda _: other.stop(0.0),
    }


def play(pool: str, kind: str, name: str, seconds: float) -> list[str]:
    """Have ``name`` called out of turn for so long; return what is wrong then."""
    case = prepare(pool, workers=2, capacity=50)
    other = build("executor", f"{case.pool.name}_other", 1, registry=case.registry)
    stage = Stage(case, other, calls_of(case, other)[name], ends=time.monotonic() + seconds)
    if kind == "handler":
        handle(stage)
    else:
        gc.set_threshold(*THRESHOLD)
    threads = [threading.Thread(target=submit, args=(stage, kind), daemon=True) for _ in range(SUBMITTERS)]
    for thread in threads:
        thread.start()
    submit(stage, kind)
    for thread in threads:
        thread.join(max(0.0, stage.ends + BACK - time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0)
    if any(thread.is_alive() for thread in threads):
        return ["a submitter hangs"]
    gc.set_threshold(700, 10, 10)
    gc.collect()
    other.stop(0.0)
    found = [*judge(case), *sorted(stage.errors)]
    return found if stage.calls else [*found, "nothing was called"]


def handle(stage: Stage) -> None:
    """Have the call made by a handler, on top of whatever the main thread does."""

    def handler(*_: object) -> None:
        if stage.last:
            stage.make(stage.last[0])
        # Wound up anew each time: signals that come faster than they are handled would stop all else.
        if time.monotonic() < stage.ends:
            signal.setitimer(signal.ITIMER_REAL, EVERY)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, EVERY)


def watched(pool: str, kind: str, name: str, seconds: float) -> list[str]:
    """Play in the main thread, under the eye of a thread that ends the process if it hangs."""
    over = threading.Event()

    def watch() -> None:
        if not over.wait(seconds + BACK + JUDGED):
            say(scenario=f"{pool} {kind} {name}", problems=["the main thread hangs"])
            faulthandler.dump_traceback()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        return play(pool, kind, name, seconds)
    finally:
        over.set()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("pool")
    arguments.add_argument("kind", choices=["finalizer", "weakref", "handler"])
    arguments.add_argument("call")
    arguments.add_argument("--each", type=float, default=1.0, help="seconds for each call")
    options = arguments.parse_args()
    begin(options)
    # No scrape: the registry of prometheus_client has a lock that is not reentrant.
    names = ["cancel", "submit", "result", "stats", "dump"]
    names += ["stop"] if options.kind == "handler" else []
    broken = False
    for name in names if options.call == "all" else [options.call]:
        problems = watched(options.pool, options.kind, name, options.each)
        broken = broken or bool(problems)
        say(scenario=f"{options.pool} {options.kind} {name}", problems=problems)
    end(broken=broken)


if __name__ == "__main__":
    main()
