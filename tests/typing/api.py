"""What users write, for type checkers: `make lint` gives it to mypy --strict and pyright. It never runs."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import nullcontext
from typing import Unpack, assert_type

import pybreaker
import structlog
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry

import prodpool.opentelemetry
import prodpool.testing
from prodpool import (
    Around,
    BackendFactory,
    BreakerOpenError,
    BreakerPolicy,
    CurrentTask,
    HandoffOptions,
    InstrumentedPool,
    OnHangExit,
    Overload,
    PoolBrokenError,
    PoolClosedError,
    PoolFullError,
    PoolFuture,
    PoolLike,
    PoolOptions,
    PoolStats,
    PoolView,
    Reason,
    RejectedError,
    Result,
    StopReport,
    SupportsSubmit,
    TaskContext,
    TaskExpiredError,
    WorkerLostError,
    current_task,
    threads,
)


def export() -> None:
    """An exporter of the SDK is wrapped, and the result is one."""
    exporter = prodpool.opentelemetry.PoolMetricExporter(
        ConsoleMetricExporter(), registry=CollectorRegistry()
    )
    exporter.attach(NoOpMeterProvider())
    PeriodicExportingMetricReader(exporter)
    as_any: MetricExporter = exporter
    del as_any


def work(size: int, *, unit: str = "kB") -> str:
    """Stand for a user's function."""
    return f"{size} {unit}"


def construct() -> None:
    """One argument is enough besides the backend; every option has a type."""
    InstrumentedPool(ThreadPoolExecutor(2), name="least")
    pool = InstrumentedPool(
        ThreadPoolExecutor(2),
        name="most",
        max_workers=2,
        queue_capacity=10,
        overload="block",
        slow_after=1,
        hung_after=5.0,
        drain_deadline=3,
        breaker=BreakerPolicy(consecutive_failures=3, exclude=(KeyError,)),
        registry=CollectorRegistry(),
        tracer_provider=TracerProvider(),
        logger=structlog.get_logger(),
        buckets=[0.1, 1],
        own_backend=False,
        on_hang_exit="wait",
        context="empty",
        context_vars=["structlog.contextvars:*"],
        around=nullcontext,
        log_levels={"task.slow": "info"},
        task_metrics=["send_mail"],
    )
    InstrumentedPool(ThreadPoolExecutor(2), name="context", context="request")  # type: ignore[arg-type]
    InstrumentedPool(ThreadPoolExecutor(2), name="around", around=abs)  # type: ignore[arg-type]
    InstrumentedPool(ThreadPoolExecutor(2), name="plain_breaker", breaker=pybreaker.CircuitBreaker())
    InstrumentedPool(ThreadPoolExecutor(2), name="policy", overload="panic")  # type: ignore[arg-type]
    InstrumentedPool(ThreadPoolExecutor(2))  # type: ignore[call-arg]
    executor: Executor = pool
    del executor
    assert_type(threads(name="ready_made"), InstrumentedPool)
    assert_type(prodpool.processes(name="crunching", max_workers=4, start_method="spawn"), InstrumentedPool)
    assert_type(prodpool.threads(name="sized", max_workers=4, overload="caller_runs"), InstrumentedPool)


def submit(pool: InstrumentedPool) -> None:
    """A future knows what its task returns, and the arguments are those of the function."""
    future = pool.submit(work, 3, unit="MB")
    assert_type(future, PoolFuture[str])
    assert_type(future.result(timeout=1), str)
    stdlib: Future[str] = future
    del stdlib
    pool.submit(work, "three")  # type: ignore[arg-type]
    pool.submit(work, 3, colour="red")  # type: ignore[call-arg]
    assert_type(pool.submit_wait(work, 3), PoolFuture[str])
    assert_type(pool.map(work, [1, 2], buffersize=4), Iterator[str])
    done, _ = wait([future])
    assert_type(done, set[Future[str]])
    assert_type(list(as_completed([future])), list[Future[str]])


def view(pool: InstrumentedPool) -> None:
    """A view with options submits as the pool does."""
    seen = pool.options(task="resize", deadline=5.0, wait=2)
    assert_type(seen, PoolView)
    assert_type(seen.options(task="other"), PoolView)
    assert_type(seen.submit(work, 3), PoolFuture[str])
    executor: Executor = seen
    del executor


def annotate(
    pool: InstrumentedPool,
    around: Around,
    overload: Overload = "reject",
    on_hang_exit: OnHangExit = "exit",
    context: TaskContext = "copy",
) -> None:
    """What users annotate with is public: options passed on, backends, factories, a pool or a view."""

    def resizing(**options: Unpack[PoolOptions]) -> InstrumentedPool:
        return threads(name="resizing", **options)

    def crunching(**options: Unpack[HandoffOptions]) -> InstrumentedPool:
        return prodpool.processes(name="crunching", **options)

    def over(backend: SupportsSubmit | BackendFactory) -> InstrumentedPool:
        return InstrumentedPool(
            backend,
            name="over",
            max_workers=2,
            overload=overload,
            on_hang_exit=on_hang_exit,
            context=context,
            around=around,
        )

    def enqueue(target: PoolLike) -> PoolFuture[str]:
        return target.options(task="work").submit(work, 3)

    factory: BackendFactory = ThreadPoolExecutor
    resizing(overload="block", drain_deadline=3)
    resizing(prefetch=2)  # type: ignore[call-arg]
    crunching(prefetch=2)
    over(ThreadPoolExecutor(2))
    over(lambda workers: ThreadPoolExecutor(2 * workers))
    over(factory)
    enqueue(pool)
    assert_type(enqueue(pool.options(deadline=5.0)), PoolFuture[str])
    enqueue(ThreadPoolExecutor(2))  # type: ignore[arg-type]
    assert_type(prodpool.__version__, str)


async def on_a_loop(pool: InstrumentedPool) -> None:
    """On an event loop, admission is awaited first and the result after it."""
    assert_type(await pool.run(work, 3, unit="MB"), str)
    assert_type(await pool.options(task="resize").run(work, 3), str)
    await pool.run(work, "three")  # type: ignore[arg-type]
    future = await pool.submit_async(work, 3)
    assert_type(future, asyncio.Future[str])
    assert_type(await future, str)
    assert_type(await asyncio.wrap_future(pool.submit(work, 3)), str)
    assert_type(await asyncio.get_running_loop().run_in_executor(pool, work, 3), str)


def observe(pool: InstrumentedPool) -> None:
    """A snapshot and a report have typed fields."""
    stats = pool.stats()
    assert_type(stats, PoolStats)
    assert_type(stats.completed, Mapping[Result, int])
    assert_type(stats.dropped, Mapping[Reason, int])
    assert_type((stats.queued, stats.running, stats.in_flight, stats.offered), tuple[int, int, int, int])
    assert_type((stats.oldest_queued, stats.longest_running), tuple[float, float])
    assert_type(stats.breaker, str | None)
    assert_type(pool.capacity, int)
    assert_type(pool.wait_idle(timeout=5), bool)
    pool.pause()
    pool.resume()
    pool.resize(4)
    report = pool.stop(deadline=1)
    assert_type(report, StopReport)
    assert_type((report.drained, report.completed, report.dropped), tuple[bool, int, int])
    assert_type((report.abandoned, report.elapsed), tuple[tuple[str, ...], float])
    pool.close_metrics()
    assert_type(pool.as_thread_pool(), ThreadPoolExecutor)


def refused(pool: InstrumentedPool) -> None:
    """Every refusal is a RuntimeError that says which pool, why, and when to come back."""
    errors: list[type[RejectedError]] = [
        PoolFullError,
        PoolClosedError,
        PoolBrokenError,
        BreakerOpenError,
    ]
    others: list[type[RuntimeError]] = [RejectedError, TaskExpiredError, WorkerLostError]
    del errors, others
    try:
        pool.submit(work, 3)
    except RejectedError as error:
        assert_type(error.pool, str)
        assert_type(error.reason, Reason)
        assert_type(error.retry_after, float | None)


def in_a_task() -> None:
    """A task may ask how much time it has and whether it should end."""
    task = current_task()
    assert_type(task, CurrentTask | None)
    if task is not None:
        assert_type(task.cancelled, threading.Event)
        assert_type(task.remaining, float | None)
        assert_type((task.name, task.pool, task.attempt), tuple[str, str, int])


async def leave_on_a_loop() -> None:
    """So does ``async with``; the report of a stop is the same on a loop."""
    async with threads(name="within") as pool:
        assert_type(pool, InstrumentedPool)
        assert_type(await pool.wait_idle_async(timeout=5), bool)
        assert_type(await pool.stop_async(deadline=1), StopReport)


def stand_in(instrumented_pool: prodpool.testing.PoolFactory) -> None:
    """What stands in for a pool in tests goes wherever a pool, an executor or a backend does."""
    recording = prodpool.testing.RecordingPool("mail", hold=True, clock=prodpool.testing.ManualClock())
    pool_like: PoolLike = recording
    executors: list[Executor] = [recording, prodpool.testing.InlineExecutor()]
    backend: SupportsSubmit = prodpool.testing.InlineExecutor(max_workers=4)
    factory: BackendFactory = prodpool.testing.InlineExecutor
    del pool_like, executors, backend, factory
    assert_type(recording.submit(work, 3, unit="MB"), PoolFuture[str])
    recording.submit(work, "three")  # type: ignore[arg-type]
    assert_type(recording.options(task="send").submit(work, 3), PoolFuture[str])
    assert_type(recording.map(work, [1, 2]), Iterator[str])
    recording.refuse(PoolFullError, times=2, retry_after=1.5)
    recording.refuse(BreakerOpenError(pool="mail", retry_after=2.0), times=None)
    recording.fail(WorkerLostError)
    recording.fail(KeyError("no such order"))
    recording.refuse("full")  # type: ignore[arg-type]
    submission = recording.submissions[0]
    assert_type(submission, prodpool.testing.Submission)
    assert_type(submission.options.deadline, float | None)
    assert_type(recording.stop(), StopReport)
    with recording as entered:
        assert_type(entered, prodpool.testing.RecordingPool)
    assert_type(instrumented_pool(), InstrumentedPool)
    assert_type(instrumented_pool(ThreadPoolExecutor, max_workers=2, overload="block"), InstrumentedPool)
    instrumented_pool(prodpool.testing.InlineExecutor(), name="mail", check_leaks=False, own_backend=False)
    instrumented_pool(max_worker=2)  # type: ignore[call-arg]
    assert_type(instrumented_pool.registry, CollectorRegistry)


def leave() -> None:
    """``with`` gives the pool itself."""
    with threads(name="within") as pool:
        assert_type(pool, InstrumentedPool)
