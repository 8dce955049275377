"""How much of everything a run does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The sizes of one run.

    Attributes:
        rounds: Rounds of each experiment; every side is sampled once in each.
        tasks: Tasks of one sample at depth.
        calls: Tasks of one sample one at a time.
        waiting: Tasks that wait while memory is measured.
        shallow: Tasks that wait on the shallow side of the depth experiment.
        deep: Tasks that wait on its deep side.
        many_workers: Workers on the large side of the worker experiment, and under the watchdog.
        watch_seconds: Seconds for which the watchdog's cost is observed, per round.
        processes: Child processes per side where each sample takes a fresh one.
        handed_over: Tasks of one sample at depth over processes.
        handed_calls: Tasks of one sample one at a time over processes.
        handed_large: Calls of one sample that carry a mebibyte there and back.
        handed_long: Tasks of one sample that take 50 ms.
        handed_mixed: Tasks of one sample of which one in fifty takes 50 ms.
        watched_starts: Tasks of one round whose dwell is compared with when they say that they began; below
            100, which is as many lines as a pool logs at once.
    """

    rounds: int = 15
    tasks: int = 40_000
    calls: int = 4_000
    waiting: int = 20_000
    shallow: int = 1_000
    deep: int = 1_000_000
    many_workers: int = 500
    watch_seconds: float = 5.0
    processes: int = 3
    handed_over: int = 4_000
    handed_calls: int = 500
    handed_large: int = 40
    handed_long: int = 20
    handed_mixed: int = 500
    watched_starts: int = 90


FULL = Scale()
# Says nothing about cost; runs every line within seconds.
QUICK = Scale(
    rounds=2,
    tasks=200,
    calls=50,
    waiting=200,
    shallow=20,
    deep=400,
    many_workers=20,
    watch_seconds=0.05,
    processes=1,
    handed_over=40,
    handed_calls=10,
    handed_large=4,
    handed_long=4,
    handed_mixed=60,
    watched_starts=10,
)
