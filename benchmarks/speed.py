"""Time per task: at depth, one at a time, and with few and many workers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial

from benchmarks.contenders import BARE, CONTENDERS, POOL, UNGUARDED
from benchmarks.report import Row
from benchmarks.sampling import Sample, Series, interleave, measured
from benchmarks.scale import Scale

WORKERS = 8
_WARM_UP = 200
TITLES = {"cpu": "CPU", "wall": "wall"}


def noop() -> None:
    """Be the task: all that is measured is what the executor adds."""


def throughput(scale: Scale) -> list[Row]:
    """Submit every task, then wait for all of them."""
    series = _race(partial(all_at_once, tasks=scale.tasks), scale.rounds, scale.tasks)
    rows = _rows("throughput at depth", series, target=0.80)
    for measure, title in TITLES.items():
        spread = series[POOL].difference(series[UNGUARDED], measure)
        rows.append(Row("breaker", "acquire + record", title, spread, "us/task"))
    return rows


def latency(scale: Scale) -> list[Row]:
    """Wait for each task before submitting the next."""
    series = _race(partial(one_by_one, tasks=scale.calls), scale.rounds, scale.tasks)
    return _rows("one at a time", series, target=1.15)


def many_workers(scale: Scale) -> list[Row]:
    """Compare the time per task at depth with few workers and with many, each side with itself."""
    rows = []
    for key in (BARE, POOL):
        contender = CONTENDERS[key]
        with ExitStack() as stack:
            few, many = (
                stack.enter_context(contender.build(workers, scale.tasks))
                for workers in (1, scale.many_workers)
            )
            _start_all(many, scale.many_workers)
            run = partial(all_at_once, tasks=scale.tasks)
            series = interleave({"few": partial(run, few), "many": partial(run, many)}, scale.rounds)
        experiment = f"{scale.many_workers} workers to 1"
        rows += [
            Row.of_series(experiment, contender.title, title, series["many"], measure, base=series["few"])
            for measure, title in TITLES.items()
        ]
    return rows


def _race(run: Callable[[Executor], Sample], rounds: int, capacity: int) -> dict[str, Series]:
    with ExitStack() as stack:
        sides = {
            key: partial(run, stack.enter_context(contender.build(WORKERS, capacity)))
            for key, contender in CONTENDERS.items()
        }
        return interleave(sides, rounds)


def _rows(experiment: str, series: dict[str, Series], target: float) -> list[Row]:
    return [
        Row.of_series(
            experiment,
            CONTENDERS[key].title,
            title,
            series[key],
            measure,
            base=series[BARE],
            target=target if key == POOL and measure == "wall" else None,
        )
        for key in series
        for measure, title in TITLES.items()
    ]


def all_at_once(executor: Executor, tasks: int) -> Sample:
    """Submit every task, then wait for all of them."""
    _warm_up(executor, tasks)
    with measured() as sample:
        futures = [executor.submit(noop) for _ in range(tasks)]
        for future in futures:
            future.result()
    return sample.per(tasks)


def one_by_one(executor: Executor, tasks: int) -> Sample:
    """Wait for each task before submitting the next."""
    _warm_up(executor, tasks)
    with measured() as sample:
        for _ in range(tasks):
            executor.submit(noop).result()
    return sample.per(tasks)


def _warm_up(executor: Executor, tasks: int) -> None:
    for future in [executor.submit(noop) for _ in range(min(tasks, _WARM_UP))]:
        future.result()


def _start_all(executor: Executor, workers: int) -> None:
    barrier = threading.Barrier(workers + 1)
    futures = [executor.submit(barrier.wait) for _ in range(workers)]
    barrier.wait()
    for future in futures:
        future.result()
