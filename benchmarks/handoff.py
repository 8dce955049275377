"""What handing tasks over to other processes costs, and how exactly dwell says when they began there."""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import loky
from distributed import Client, LocalCluster
from distributed.cfexecutor import ClientExecutor

from benchmarks.contenders import wrap
from benchmarks.report import Row
from benchmarks.sampling import Sample, Spread, interleave
from benchmarks.scale import Scale
from benchmarks.speed import TITLES, all_at_once, one_by_one

# The benchmark has threads when it forks workers, as services have.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)

WORKERS = (2, 4)
# Milliseconds that a dwell may be off.
DWELL_ERROR = 5.0
# Seconds that each task runs whose start is watched: for so long the others wait.
_RUN = 0.001


@dataclass(frozen=True, slots=True)
class Backend:
    """An executor of another kind.

    Attributes:
        title: What it is called.
        build: Builds one of so many workers.
        target: What the pool may cost at depth, relative to it.
        share: Tasks it is given, of as many as a process pool gets in the same time.
    """

    title: str
    build: Callable[[int], Executor]
    target: float = 0.40
    share: float = 1.0


def _process_pool(method: str) -> Backend:
    context = multiprocessing.get_context(method)
    return Backend(f"ProcessPoolExecutor, {method}", lambda workers: ProcessPoolExecutor(workers, context))


@functools.cache
def _cluster(workers: int) -> LocalCluster:
    """Return the cluster of so many workers, which dask closes at exit."""
    return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")


class _DaskExecutor(ClientExecutor):
    """An executor with a client of its own, which ends with it."""

    def __init__(self, workers: int) -> None:
        client = Client(_cluster(workers))
        client.wait_for_workers(workers)
        super().__init__(client, pure=False)  # type: ignore[no-untyped-call]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        super().shutdown(wait=wait)  # type: ignore[no-untyped-call]
        self._client.close()


BACKENDS = [
    *map(_process_pool, ("fork", "forkserver")),
    Backend("loky", loky.ProcessPoolExecutor, target=0.20),
    Backend("dask", _DaskExecutor, target=1.05, share=0.1),
]


def throughput(scale: Scale) -> list[Row]:
    """Submit every task, then wait for all of them, over few and more workers."""
    rows = []
    for workers, backend in itertools.product(WORKERS, BACKENDS):
        run = partial(all_at_once, tasks=max(1, int(scale.handed_over * backend.share)))
        rows += _race(f"{workers} processes at depth", backend, workers, run, scale, backend.target)
    return rows


def latency(scale: Scale) -> list[Row]:
    """Wait for each task before submitting the next."""
    rows = []
    for backend in BACKENDS:
        run = partial(one_by_one, tasks=max(1, int(scale.handed_calls * backend.share)))
        rows += _race("processes one at a time", backend, WORKERS[0], run, scale, None)
    return rows


def dwell(scale: Scale) -> list[Row]:
    """Compare the dwell that a pool tells with when each task says that it began."""
    rows = []
    for backend in BACKENDS:
        errors = [
            error for _ in range(scale.rounds) for error in _dwell_errors(backend, scale.watched_starts)
        ]
        side = f"InstrumentedPool({backend.title})"
        spreads = {
            "each": Spread.of(errors),
            "p99": Spread.of([_p99(errors)]),
            "max": Spread.of([max(errors)]),
        }
        rows += [
            Row("error of dwell", side, of, spread, "ms", target=DWELL_ERROR if of == "p99" else None)
            for of, spread in spreads.items()
        ]
    return rows


def _race(
    experiment: str,
    backend: Backend,
    workers: int,
    run: Callable[[Executor], Sample],
    scale: Scale,
    target: float | None,
) -> list[Row]:
    with ExitStack() as stack:
        wrapped = wrap(backend.build(workers), scale.handed_over, max_workers=workers)
        pool = f"InstrumentedPool({backend.title})"
        sides = {
            backend.title: partial(run, stack.enter_context(backend.build(workers))),
            pool: partial(run, stack.enter_context(wrapped)),
        }
        series = interleave(sides, scale.rounds)
    return [
        Row.of_series(
            experiment,
            side,
            title,
            series[side],
            measure,
            base=series[backend.title],
            target=target if side == pool and measure == "wall" else None,
        )
        for side in series
        for measure, title in TITLES.items()
    ]


class _Dwells:
    """A logger that keeps what ``task.slow`` says of each task's dwell."""

    def __init__(self) -> None:
        self.of: dict[str, float] = {}

    def info(self, event: str, **fields: Any) -> None:
        """Hear of the pool."""

    def warning(self, event: str, **fields: Any) -> None:
        """Hear of a task."""
        if event == "task.slow":
            self.of[fields["task"]] = fields["dwell"]

    error = info


def _dwell_errors(backend: Backend, tasks: int) -> list[float]:
    """Return by how many milliseconds the dwell of each task was off, where most have to wait."""
    dwells = _Dwells()
    options = {"logger": dwells, "slow_after": 1e-9, "max_workers": WORKERS[0]}
    with wrap(backend.build(WORKERS[0]), tasks, **options) as pool:
        # A worker's first task has to import its function, and has begun by then.
        for future in [pool.submit(_settle_in) for _ in range(2 * WORKERS[0])]:
            future.result()
        submitted, futures = [], []
        for number in range(tasks):
            submitted.append(time.monotonic())
            futures.append(pool.options(task=str(number)).submit(_say_when))
        began = [future.result() for future in futures]
    return [
        abs(dwells.of[str(number)] - (began[number] - submitted[number])) * 1000 for number in range(tasks)
    ]


def _settle_in() -> None:
    time.sleep(0.05)


def _say_when() -> float:
    began = time.monotonic()
    time.sleep(_RUN)
    return began


def _p99(numbers: list[float]) -> float:
    return sorted(numbers)[math.ceil(0.99 * len(numbers)) - 1]
