"""What handing tasks over to other processes costs, and how exactly dwell says when they began there."""

from __future__ import annotations

import functools
import itertools
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import loky
from distributed import Client, LocalCluster
from distributed.cfexecutor import ClientExecutor

from benchmarks.contenders import wrap
from benchmarks.report import Row
from benchmarks.sampling import Sample, Spread, interleave, measured
from benchmarks.scale import Scale
from benchmarks.speed import TITLES, all_at_once, one_by_one

# The benchmark has threads when it forks workers, as services have.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)

WORKERS = (2, 4)
# Milliseconds that a dwell may be off.
DWELL_ERROR = 5.0
# Seconds that each task runs whose start is watched: for so long the others wait.
_RUN = 0.001
MEBIBYTE = 1 << 20
# Seconds of a task that is long beside a hand-over.
_LONG = 0.05


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
        # A dask cluster answers in milliseconds, in which the pool is not seen.
        target = None if backend.title == "dask" else 1.0
        rows += _race("processes one at a time", backend, WORKERS[0], run, scale, target)
    return rows


def large_calls(scale: Scale) -> list[Row]:
    """Send a mebibyte to a worker process and back."""
    run = partial(_at_once, fn=_returned, arguments=(bytes(MEBIBYTE),), tasks=scale.handed_large)
    return _each("processes, 1 MiB and back", run, scale, target=1.1)


def long_tasks(scale: Scale) -> list[Row]:
    """Run tasks beside whose 50 ms the hand-over should not be seen."""
    run = partial(_at_once, fn=time.sleep, arguments=(_LONG,), tasks=scale.handed_long)
    return _each("processes, tasks of 50 ms", run, scale, target=1.02)


def mixed_tasks(scale: Scale) -> list[Row]:
    """Run tasks of no length among some of 50 ms, which must not hold up what was sent ahead behind them.

    The figure is the 99th percentile of the time from submit to result of those of no length.
    """
    return _each(
        "processes, one long in 50", partial(_p99_of_mixed, tasks=scale.handed_mixed), scale, target=1.0
    )


def _each(experiment: str, run: Callable[[Executor], Sample], scale: Scale, target: float) -> list[Row]:
    """Race every kind of process pool of this host. A dask worker is measured by `throughput`."""
    backends = [backend for backend in BACKENDS if backend.title != "dask"]
    return [row for backend in backends for row in _race(experiment, backend, WORKERS[0], run, scale, target)]


def _at_once(executor: Executor, fn: Callable[..., Any], arguments: tuple[Any, ...], tasks: int) -> Sample:
    """Submit every call, then wait for all of them; the workers know the function."""
    for future in [executor.submit(fn, *arguments) for _ in range(2 * WORKERS[0])]:
        future.result()
    with measured() as sample:
        for future in [executor.submit(fn, *arguments) for _ in range(tasks)]:
            future.result()
    return sample.per(tasks)


def _p99_of_mixed(executor: Executor, tasks: int) -> Sample:
    for future in [executor.submit(time.sleep, 0.0) for _ in range(min(tasks, 200))]:
        future.result()
    times: list[float] = []

    def submit(number: int) -> Future[None]:
        if number % 50 == 0:
            return executor.submit(time.sleep, _LONG)
        began = time.perf_counter()
        future = executor.submit(time.sleep, 0.0)
        future.add_done_callback(lambda _: times.append(time.perf_counter() - began))
        return future

    with measured() as sample:
        for future in [submit(number) for number in range(tasks)]:
            future.result()
        while len(times) < tasks - math.ceil(tasks / 50):  # a waiter may be woken before the callback is made
            time.sleep(0.0001)
    return Sample(sample.cpu / tasks * 1e6, _p99(times) * 1e6)


def _returned(value: bytes) -> bytes:
    return value


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
        capacity = max(scale.handed_over, scale.handed_mixed)
        wrapped = wrap(backend.build(workers), capacity, max_workers=workers)
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
