"""Promise 9: no argument and no result of a task appears in logs, spans, metrics or any repr."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from prodpool import InstrumentedPool, PoolFullError, PoolFuture, current_task
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.support import MakePool
from tests.telemetry.ticking import ticks
from tests.telemetry.tracer import Spans

# Put together at run time, so that no line of source in a stack holds it.
SECRET = "hunter2"[:4] + "er" + str(2)
held: ContextVar[str] = ContextVar("held")


@dataclass
class Customer:
    """An argument whose repr tells everything, with methods and calls of its own."""

    password: str
    gate: BlockingTask = field(default_factory=BlockingTask)

    def deliver(self) -> str:
        return self.password

    def fail(self, again: str) -> None:
        local = self.password + again
        raise ValueError(len(local))

    def __call__(self) -> str:
        return self.password

    def hang(self, again: str) -> str:
        return str(self.gate(again))


def give(secret: str, *, other: str = "") -> str:
    return secret + other


def fail(secret: str, *, other: str = "") -> str:
    local = {"secret": secret, "other": other}
    try:
        local.pop("no such")
    except KeyError as error:
        raise ValueError(len(secret)) from error
    return other


def leave(secret: str) -> None:
    raise SystemExit(len(secret))


def read(future: Future[Any]) -> None:
    result = future.result() if future.exception() is None else None
    raise LookupError(str(result)[:1].isupper())


Make = Callable[[io.StringIO], Any]


def json_renderer(out: io.StringIO) -> Any:
    """structlog, JSON lines, with tracebacks as dictionaries."""
    return structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()],
    )


def console_renderer(out: io.StringIO) -> Any:
    """The console renderer of structlog, which prints local variables in tracebacks where it can."""
    return structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer(colors=False)],
    )


def plain_logging(out: io.StringIO) -> Any:
    """The standard library's logging, with its default formatter."""
    return stdlib(out, logging.Formatter("%(levelname)s %(name)s %(message)s"))


def formatted_logging(out: io.StringIO) -> Any:
    """The standard library's logging, formatted by structlog with tracebacks as dictionaries."""
    processors: list[Any] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.dict_tracebacks,
        structlog.processors.JSONRenderer(),
    ]
    return stdlib(out, structlog.stdlib.ProcessorFormatter(processors=processors))


def stdlib(out: io.StringIO, formatter: logging.Formatter) -> logging.Logger:
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter)
    logger = logging.Logger("app", logging.DEBUG)  # noqa: LOG001  # of this test alone
    logger.addHandler(handler)
    return logger


@pytest.fixture
def library_log() -> Iterator[io.StringIO]:
    """Catch what the library's own logger writes, formatted so that locals would show."""
    out = io.StringIO()
    handler = formatted_logging(out).handlers[0]
    logging.getLogger("prodpool").addHandler(handler)
    yield out
    logging.getLogger("prodpool").removeHandler(handler)


def live_through_everything(
    pool: InstrumentedPool,
    customer: Customer,
    clock: ManualClock,
    tick: Callable[[], None],
    said: list[str],
) -> None:
    """Have one of everything happen to tasks that handle the secret; note every repr on the way."""
    held.set(SECRET)
    submit = pool.submit_wait
    calls: list[PoolFuture[Any]] = [
        submit(give, SECRET, other=SECRET),
        submit(fail, SECRET, other=SECRET),
        submit(customer.deliver),
        submit(customer.fail, SECRET),
        submit(customer),
        submit(partial(fail, SECRET, other=SECRET)),
        submit(partial(customer.fail, SECRET)),
        submit(leave, SECRET),
        submit(lambda secret: fail(secret, other=secret), SECRET),
        pool.options(task="named", deadline=9.0, wait=PATIENCE).submit(give, SECRET),
        submit(lambda _: clock.advance(2.0), SECRET),
        submit(lambda _: said.append(repr(current_task())), SECRET),
    ]
    for future in calls:
        future.exception(PATIENCE)
        future.add_done_callback(read)
    list(pool.map(give, [SECRET] * 3))
    hanging = pool.submit(customer.hang, SECRET)
    customer.gate.wait_started()
    hanging.add_done_callback(read)
    cancelled, expired, queued = (
        pool.submit(give, SECRET),
        pool.options(deadline=1.0).submit(give, SECRET),
        pool.submit(give, SECRET),
    )
    try:
        pool.submit(give, SECRET)
    except PoolFullError as error:
        said.append(repr(error))
    said += map(repr, [*calls, hanging, cancelled, queued, pool, pool.options(task="named"), pool.stats()])
    cancelled.cancel()
    clock.advance(100.0)
    tick()
    said += map(repr, [expired, expired.exception(0), pool.stats(), pool.stop(deadline=0), pool.stats()])
    said += map(repr, [queued, hanging, hanging.exception(PATIENCE), pool])


@pytest.mark.parametrize("make", [json_renderer, console_renderer, plain_logging, formatted_logging])
@pytest.mark.parametrize("traced", [False, True], ids=["untraced", "traced"])
def test_nothing_gets_out(
    make_pool: MakePool,
    registry: CollectorRegistry,
    library_log: io.StringIO,
    capfd: pytest.CaptureFixture[str],
    make: Make,
    traced: bool,
) -> None:
    """Whatever becomes of a task, and wherever its log goes, what it was given and gave is not in it."""
    out, said, spans, clock = io.StringIO(), list[str](), Spans(), ManualClock()
    pool = make_pool(
        1,
        clock=clock,
        queue_capacity=3,
        slow_after=1.0,
        hung_after=50.0,
        logger=make(out),
        tracer_provider=spans.provider if traced else None,
    )
    customer = Customer(SECRET)
    try:
        live_through_everything(pool, customer, clock, ticks(pool), said)
    finally:
        customer.gate.release()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(PATIENCE)
    log = out.getvalue()
    events = (
        "task.error",
        "task.panic",
        "task.slow",
        "task.still_running",
        "task.abandoned",
        "pool.dropping",
        "task.callback_error",
    )
    assert [event for event in events if event not in log] == []
    assert (len(spans.ended) >= 15) is traced
    everything = {
        "log": log,
        "library's log": library_log.getvalue(),
        "spans": "\n".join(span.to_json() for span in spans.ended),
        "metrics": generate_latest(registry).decode(),
        "openmetrics": openmetrics.generate_latest(registry).decode(),  # type: ignore[no-untyped-call]
        "reprs": "\n".join(said),
        "printed": "".join(capfd.readouterr()),
    }
    assert [where for where, text in everything.items() if SECRET in text] == []


def test_the_search_would_find_it(make_pool: MakePool) -> None:
    """The search above is awake: a task that puts the secret into its own exception's text is found."""

    def tell(secret: str) -> None:
        raise ValueError(secret)

    out, spans = io.StringIO(), Spans()
    pool = make_pool(1, logger=json_renderer(out), tracer_provider=spans.provider)
    pool.submit(tell, SECRET).exception(PATIENCE)
    pool.stop()
    assert SECRET in out.getvalue()
    assert any(SECRET in span.to_json() for span in spans.ended)


def test_a_backend_that_breaks(registry: CollectorRegistry) -> None:
    """The error of a task whose backend broke does not tell its arguments."""

    def break_down() -> None:
        raise RuntimeError("broken")

    out = io.StringIO()
    backend = ThreadPoolExecutor(1, initializer=break_down)
    pool = InstrumentedPool(backend, name="test", registry=registry, logger=json_renderer(out))
    error = pool.submit(give, SECRET, other=SECRET).exception(PATIENCE)
    until(lambda: "pool.backend_broken" in out.getvalue())
    pool.stop(1.0)
    assert SECRET not in out.getvalue() + repr(error) + str(error)
