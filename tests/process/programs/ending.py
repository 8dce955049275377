"""A process that comes to its end in one of many ways: ``ending.py WAY BACKEND FOLDER``.

It says on stdout, in this order: ``READY``, what the way says, ``ENDING <monotonic seconds>`` the moment
its end begins, and whatever logging and atexit write after that. Spans go to ``FOLDER/spans``.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

import prodpool
from prodpool import InstrumentedPool
from prodpool.shutdown import at_exit
from prodpool.testing import flush_telemetry

DEADLINE = 0.2
FOREVER = threading.Event()
# A pool that nobody refers to is drained at once; these are to live until the end.
KEPT: list[InstrumentedPool] = []


class FileExporter(SpanExporter):
    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            file.writelines(f"{span.name}\n" for span in spans)
        return SpanExportResult.SUCCESS


class OwnSubmit(ThreadPoolExecutor):
    """An executor whose threads the pool cannot lease, and CPython joins."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def build(backend: str, name: str = "test", workers: int = 2, **options: Any) -> InstrumentedPool:
    options.setdefault("drain_deadline", DEADLINE)
    options.setdefault("slow_after", 60.0)  # no line about how busy the machine is
    if backend == "threads":
        return prodpool.threads(name=name, max_workers=workers, **options)
    executor = OwnSubmit(workers) if backend == "own_submit" else ThreadPoolExecutor(workers)
    return InstrumentedPool(executor, name=name, **options)


def hang(pool: InstrumentedPool, what: Callable[[], object] = FOREVER.wait) -> None:
    """Have a task of ``pool`` begin and never end."""
    begun = threading.Event()

    def hung_task() -> None:
        begun.set()
        what()

    pool.submit(hung_task)
    assert begun.wait(30)


def say(line: str) -> None:
    """Print without flushing: it is the process's end that has to."""
    sys.stdout.write(line + "\n")


def say_later(seconds: float, line: str) -> None:
    time.sleep(seconds)
    say(line)


def ending() -> None:
    say(f"ENDING {time.monotonic()}")


def stopped(pool: InstrumentedPool) -> None:
    hang(pool)
    ending()
    say(f"REPORT {pool.stop().abandoned}")


def left_with(pool: InstrumentedPool) -> None:
    with pool:
        hang(pool)
        ending()


def left_alone(pool: InstrumentedPool) -> None:
    hang(pool)
    ending()


def exits_3(pool: InstrumentedPool) -> None:
    hang(pool)
    ending()
    sys.exit(3)


def raises(pool: InstrumentedPool) -> None:
    hang(pool)
    ending()
    raise LookupError("the application's own error")


def terminated(pool: InstrumentedPool) -> None:
    def handler(signum: int, frame: object) -> None:
        ending()
        say(f"REPORT {pool.stop().abandoned}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, handler)
    hang(pool)
    say("AT WORK")
    sys.stdout.flush()
    FOREVER.wait(30)


def unused(pool: InstrumentedPool) -> None:
    ending()


def idle(pool: InstrumentedPool) -> None:
    for future in [pool.submit(int) for _ in range(4)]:
        future.result(30)
    ending()


def unreferred(pool: InstrumentedPool) -> None:
    """Nobody refers to the pool any more when its process ends (see `main`)."""
    hang(pool)
    ending()


def paused(pool: InstrumentedPool) -> None:
    """Tasks wait and no thread has been started for them; on 3.12 none can be any more."""
    fresh = build("executor", "fresh", workers=1)
    KEPT.append(fresh)
    fresh.pause()
    for number in range(2):
        fresh.submit(say, f"RAN {number}")
    ending()


def blocked_in_c(pool: InstrumentedPool) -> None:
    reader, _writer = os.pipe()
    hang(pool, lambda: os.read(reader, 1))
    ending()


def several(pool: InstrumentedPool) -> None:
    for number in range(4):
        another = build("executor", f"another_{number}", drain_deadline=5.0)
        KEPT.append(another)
        hang(another)
    ending()


def own_thread(pool: InstrumentedPool) -> None:
    """The application has a non-daemon thread and an executor of its own, with work for a while."""
    hang(pool)
    other = ThreadPoolExecutor(1)
    for number in range(4):
        other.submit(say_later, 0.1, f"OTHER {number}")
    last = other.submit(say_later, 0.1, "OTHER 4")

    def after_the_last() -> None:
        last.result()
        say_later(0.2, "OWN THREAD")

    threading.Thread(target=after_the_last).start()
    ending()


def waits(pool: InstrumentedPool) -> None:
    waiting = build("executor", "waiting", on_hang_exit="wait")
    KEPT.append(waiting)
    hang(waiting, sys.stdin.read)
    ending()


def interrupted(pool: InstrumentedPool) -> None:
    patient = build("executor", "patient", drain_deadline=60.0)
    KEPT.append(patient)
    hang(patient)
    ending()


def holds_log(pool: InstrumentedPool) -> None:
    """A task hangs while it holds the lock that every log line, and logging's own atexit, wants."""
    at_exit.FORCED_EXIT_AFTER = 0.5
    pool.submit(int).result()
    flush_telemetry(pool)  # or the line about its first use would be the one that waits for the lock
    (handler,) = logging.getLogger().handlers

    def hold_the_lock() -> None:
        handler.acquire()
        FOREVER.wait()

    hang(pool, hold_the_lock)
    sys.stdout.flush()
    ending()
    sys.stdout.flush()


def holds_log_noticed(pool: InstrumentedPool) -> None:
    """The same, and the watchdog is stuck in writing that it has noticed."""
    quick = build("executor", "quick", hung_after=0.02)
    KEPT.append(quick)
    noticed = threading.Event()

    class Noticed(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            if "task.still_running" in record.getMessage():
                noticed.set()
            return True

    logging.getLogger("prodpool").addFilter(Noticed())
    holds_log(quick)
    assert noticed.wait(30)


def other_hook(pool: InstrumentedPool) -> None:
    """Import what registers an exit hook of its own after ours, and use it."""
    from concurrent.futures import ProcessPoolExecutor

    hang(pool)
    executor = ProcessPoolExecutor(1)
    say(f"WORKER {executor.submit(os.getpid).result(30)}")
    ending()


def born_late(pool: InstrumentedPool) -> None:
    """Build and use a pool in an atexit callback."""

    def late() -> None:
        try:
            with build("executor", "late") as another:
                say(f"LATE {another.submit(int).result(30)}")
        except RuntimeError as error:
            say(f"LATE {type(error).__name__}")

    atexit.register(late)
    ending()


def drains(pool: InstrumentedPool) -> None:
    """Tasks still run when the exit begins."""
    begun = threading.Event()

    def task() -> None:
        begun.set()
        time.sleep(0.3)

    pool.submit(task)
    begun.wait(30)
    ending()


def first_span(pool: InstrumentedPool) -> None:
    """A pool ends its first span while it is drained at exit, when no thread starts (3.12 on)."""
    late = build("executor", "late", workers=1)
    KEPT.append(late)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(FileExporter(Path(sys.argv[3], "spans"))))
    trace.set_tracer_provider(provider)
    begun = threading.Event()

    def task() -> None:
        begun.set()
        while late.stats().state == "open":
            time.sleep(0.001)

    late.options(task="last").submit(task)
    assert begun.wait(30)
    ending()


def closed_stream(pool: InstrumentedPool) -> None:
    """The stream that the log goes to is closed before the interpreter exits, as pytest does it."""
    flush_telemetry(pool)
    closed = open(os.devnull, "w")  # noqa: PTH123, SIM115
    for handler in logging.getLogger().handlers:
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(closed)
    closed.close()
    ending()


class HangingHandler(logging.Handler):
    """Hangs at the first line about a task, holding its lock as ``handle`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "task.error" in record.getMessage():
            self.hangs.set()
            FOREVER.wait()


def hung_log(pool: InstrumentedPool) -> None:
    """A log handler hangs, and the pool is left to the exit."""
    handler = HangingHandler()
    logging.getLogger("prodpool").addHandler(handler)
    pool.submit(divmod, 1, 0).exception(30)
    assert handler.hangs.wait(30)
    ending()
    sys.stdout.flush()


def hung_log_stopped(pool: InstrumentedPool) -> None:
    """The same, and the pool is stopped before the exit."""
    hung_log(pool)
    assert pool.stop().drained


def hung_exporter(pool: InstrumentedPool) -> None:
    """An exporter hangs in the end of a span."""
    hangs = threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            hangs.set()
            FOREVER.wait()
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Hanging()))
    traced = build("executor", "traced", tracer_provider=provider)
    KEPT.append(traced)
    assert traced.submit(int).result(30) == 0
    assert hangs.wait(30)
    ending()


def busy_exporter(pool: InstrumentedPool) -> None:
    """An exporter is behind at the exit, and the application takes its time there."""
    at_exit.FORCED_EXIT_AFTER = at_exit.GRACE = 1.0
    at_exit.CALL_GRACE = 0.9

    class Slow(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
            time.sleep(0.01)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Slow()))
    traced = build("executor", "traced", tracer_provider=provider, queue_capacity=2_000)
    for future in [traced.submit(int) for _ in range(2_000)]:
        future.result(30)
    atexit.register(say_later, 1.5, "LAST")
    ending()


def hung_callback(pool: InstrumentedPool) -> None:
    """A done-callback of a task that the exit drops hangs, and holds the lock of the log."""
    another = build("executor", "another", workers=1, queue_capacity=1)
    KEPT.append(another)
    go = threading.Event()
    begun = threading.Event()
    handler = logging.getLogger().handlers[0]

    def task() -> None:
        begun.set()
        go.wait()

    def hold_the_lock(_: object) -> None:
        handler.acquire()
        go.set()
        FOREVER.wait()

    another.submit(task)
    assert begun.wait(30)
    another.submit(int).add_done_callback(hold_the_lock)
    ending()
    sys.stdout.flush()


WAYS: dict[str, Callable[[InstrumentedPool], None]] = {
    way.__name__: way
    for way in (
        stopped,
        left_with,
        left_alone,
        exits_3,
        raises,
        terminated,
        unused,
        idle,
        unreferred,
        paused,
        blocked_in_c,
        several,
        own_thread,
        waits,
        interrupted,
        holds_log,
        holds_log_noticed,
        other_hook,
        born_late,
        drains,
        first_span,
        closed_stream,
        hung_log,
        hung_log_stopped,
        hung_exporter,
        busy_exporter,
        hung_callback,
    )
}


# Finalization itself hangs in these, until the last resort.
ENDED_HARD = {"holds_log", "holds_log_noticed", "hung_log", "hung_log_stopped", "hung_callback"}


def main() -> None:
    """Come to the end that was asked for."""
    way, backend, folder = sys.argv[1:]
    logging.basicConfig(stream=sys.stdout, format="LOG %(message)s", level=logging.INFO)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(FileExporter(Path(folder, "spans"))))
    atexit.register(say, "ATEXIT")
    if way not in ENDED_HARD:
        # What ends by itself is judged by its end, however late a busy machine comes to it.
        at_exit.GRACE = at_exit.FORCED_EXIT_AFTER = 30.0
    # Where nothing hangs the deadline is not what ends the drain.
    deadline = 30.0 if way in {"unused", "idle", "drains", "first_span", "closed_stream"} else DEADLINE
    WAYS[way](first_pool(backend, provider, keep=way != "unreferred", drain_deadline=deadline))


def first_pool(
    backend: str, provider: TracerProvider, *, keep: bool, drain_deadline: float
) -> InstrumentedPool:
    """Return a pool that has run a task, whose span waits in the batch to be exported."""
    pool = build(backend, tracer_provider=provider, drain_deadline=drain_deadline)
    pool.options(task="hello").submit(int).result(30)
    if keep:
        KEPT.append(pool)
    say("READY")
    return pool


if __name__ == "__main__":
    main()
