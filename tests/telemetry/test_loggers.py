"""Where the log goes: the logger given, else structlog's if configured, else stdlib's; never a print."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock

import pytest
import structlog
from structlog.testing import CapturingLogger

from prodpool import InstrumentedPool
from prodpool.config.log_levels import LOG_EVENTS
from prodpool.testing import flush_telemetry
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, until
from tests.log_reference import documented
from tests.support import ROOT, Logs, MakePool

EVENTS = ["pool.created", "task.error", "pool.draining", "pool.stopped"]


def boom() -> None:
    raise ValueError("went off")


class Records(logging.Handler):
    """Keeps what a stdlib logger is told."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def heads(self) -> list[tuple[str, str]]:
        """Level and first line of each record."""
        return [(record.levelname, record.getMessage().splitlines()[0]) for record in self.records]


@pytest.fixture
def records() -> Iterator[Callable[[str], Records]]:
    """Return what attaches a handler to a stdlib logger; everything is put back after the test."""
    attached: list[tuple[logging.Logger, Records, int]] = []

    def attach(name: str, level: int = logging.INFO) -> Records:
        logger, handler = logging.getLogger(name), Records()
        attached.append((logger, handler, logger.level))
        logger.addHandler(handler)
        logger.setLevel(level)
        return handler

    yield attach
    for logger, handler, level in attached:
        logger.removeHandler(handler)
        logger.setLevel(level)


@pytest.fixture
def configure() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return what configures structlog and hands out the lines it then gets; it is reset after the test."""

    def configure() -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []

        def keep(_logger: object, method: str, event: Any) -> Any:
            lines.append({"level": method, **event})
            raise structlog.DropEvent

        structlog.configure(processors=[keep])
        return lines

    structlog.reset_defaults()
    yield configure
    structlog.reset_defaults()


def use(pool: InstrumentedPool) -> None:
    """Let a pool say a few things."""
    pool.submit(len, "").result(PATIENCE)
    pool.options(task="fails").submit(boom).exception(PATIENCE)
    pool.stop()


def test_a_structlog_logger(make_pool: MakePool, logs: Logs) -> None:
    """A structlog logger gets events and fields, with what the application has bound to it."""
    logs.bound = {"service"}
    use(make_pool(1, logger=logs.logger.bind(service="shop")))
    assert logs.events == ["pool.created", "task.error", "pool.draining", "pool.stopped"]
    assert {line["service"] for line in logs.entries} == {"shop"}


def test_a_structlog_logger_that_renders(make_pool: MakePool) -> None:
    """Through a JSON renderer each line is one JSON object, the stack a string in it."""
    out: Any = CapturingLogger()
    logger = structlog.wrap_logger(out, processors=[structlog.processors.JSONRenderer()])
    use(make_pool(1, logger=logger))
    lines = [json.loads(call.args[0]) for call in out.calls]
    assert [line["event"] for line in lines] == [
        "pool.created",
        "task.error",
        "pool.draining",
        "pool.stopped",
    ]
    assert lines[1]["stack"].startswith("Traceback (most recent call last)")


def test_a_stdlib_logger(make_pool: MakePool, records: Callable[[str], Records]) -> None:
    """A stdlib logger gets one line per event at its level, fields as key=value, a stack below it."""
    handler = records("app.pools")
    use(make_pool(1, logger=logging.getLogger("app.pools")))
    assert [level for level, _ in handler.heads] == ["INFO", "WARNING", "INFO", "INFO"]
    heads = [head for _, head in handler.heads]
    assert heads[0] == "pool.created pool=test backend=ThreadPoolExecutor workers=1 queue_capacity=2"
    assert heads[1].startswith("task.error ")
    assert {"pool=test", "task=fails", "error=ValueError"} <= set(heads[1].split())
    message = handler.records[1].getMessage()
    assert "\nTraceback (most recent call last):\n" in message
    assert message.endswith("ValueError: went off")
    assert handler.records[1].exc_info is None
    assert {record.name for record in handler.records} == {"app.pools"}


def test_the_level_of_a_stdlib_logger_counts(make_pool: MakePool, records: Any) -> None:
    """What a stdlib logger's level turns down is not written."""
    handler = records("app.pools", logging.WARNING)
    use(make_pool(1, logger=logging.getLogger("app.pools")))
    assert [head.split()[0] for _, head in handler.heads] == ["task.error"]


def test_a_template_for_each_event(make_pool: MakePool, records: Callable[[str], Records]) -> None:
    """All records of an event have one template, and its fields as attributes; the caller is prodpool."""
    handler = records("app.pools")
    pool = make_pool(1, logger=logging.getLogger("app.pools"))
    for name in ("first", "second"):
        pool.options(task=name).submit(boom).exception(PATIENCE)
    pool.stop()
    failed = [record for record in handler.records if "task.error" in record.msg]
    assert [(record.msg, record.task, record.pool) for record in failed] == [  # type: ignore[attr-defined]
        ("task.error %s\n%s", "first", "test"),
        ("task.error %s\n%s", "second", "test"),
    ]
    assert {record.module for record in handler.records} == {"loggers"}
    assert {record.msg for record in handler.records} == {
        "pool.created %s",
        "task.error %s\n%s",
        "pool.draining %s",
        "pool.stopped %s",
    }


def test_an_adapter_of_the_stdlib(make_pool: MakePool, records: Callable[[str], Records]) -> None:
    """A LoggerAdapter is a stdlib logger as well, and adds what it adds."""
    handler = records("app.pools")
    adapter = logging.LoggerAdapter(logging.getLogger("app.pools"), {"service": "orders"})
    use(make_pool(1, logger=adapter))
    assert [head.split()[0] for _, head in handler.heads] == EVENTS
    assert {(record.service, record.pool) for record in handler.records} == {  # type: ignore[attr-defined]
        ("orders", "test")
    }


def test_a_record_factory_that_takes_a_name_of_ours(
    make_pool: MakePool, records: Callable[[str], Records]
) -> None:
    """Logging refuses an extra that a record has already; the line is written all the same."""
    make = logging.getLogRecordFactory()

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        record.pool = "of the application"
        return record

    handler = records("app.pools")
    logging.setLogRecordFactory(factory)
    try:
        use(make_pool(1, logger=logging.getLogger("app.pools")))
    finally:
        logging.setLogRecordFactory(make)
    assert [head.split()[0] for _, head in handler.heads] == EVENTS
    assert "pool=test" in handler.records[0].getMessage()


def test_a_logger_with_a_bind_of_its_own(make_pool: MakePool) -> None:
    """Only structlog's loggers are bound: another one, or a mock, is called as it was given."""
    logger = Mock()
    use(make_pool(1, logger=logger))
    assert [call.args[0] for call in logger.info.call_args_list] == [EVENTS[0], *EVENTS[2:]]
    assert not logger.bind.called


@pytest.mark.parametrize("given", [True, False], ids=["given", "configured"])
def test_an_asynchronous_logger(
    make_pool: MakePool, records: Callable[[str], Records], configure: Any, given: bool
) -> None:
    """What AsyncBoundLogger would leave to an event loop is written, though none runs where the lines are."""
    handler = records("app.pools")
    options: dict[str, Any] = {
        "wrapper_class": structlog.stdlib.AsyncBoundLogger,
        "processors": [structlog.stdlib.render_to_log_kwargs],
    }
    stdlib = logging.getLogger("app.pools")
    if given:
        use(make_pool(1, logger=structlog.wrap_logger(stdlib, **options)))
    else:
        configure()
        structlog.configure(**options, logger_factory=lambda *_: stdlib)
        use(make_pool(1, logger=None))
    assert [head for _, head in handler.heads] == EVENTS


@pytest.mark.parametrize("fails", [True, False], ids=["error", "slow"])
def test_the_context_of_the_task(make_pool: MakePool, fails: bool) -> None:
    """A line about a task bears what was bound to the context that it was submitted in, and in the task."""
    lines: list[tuple[str, str, str]] = []

    def keep(_logger: object, _method: str, fields: Any) -> Any:
        lines.append((fields["event"], fields.get("request", ""), fields.get("step", "")))
        raise structlog.DropEvent

    def task() -> None:
        structlog.contextvars.bind_contextvars(step="charged")
        if fails:
            raise LookupError("no such order")

    processors = [structlog.contextvars.merge_contextvars, keep]
    logger = structlog.wrap_logger(None, processors=processors)
    pool = make_pool(1, logger=logger, slow_after=60.0 if fails else 0.0)
    with structlog.contextvars.bound_contextvars(request="r-77"):
        future = pool.submit(task)
    future.exception(PATIENCE)
    assert flush_telemetry(pool)
    about_it = [line for line in lines if line[0].startswith("task.")]
    assert about_it == [("task.error" if fails else "task.slow", "r-77", "charged")]


def test_the_context_of_a_task_that_hangs(make_pool: MakePool, gate: BlockingTask) -> None:
    """So do the lines of the watchdog and of a stop that gives a task up."""
    lines: list[tuple[str, str]] = []

    def keep(_logger: object, _method: str, fields: Any) -> Any:
        lines.append((fields["event"], fields.get("request", "")))
        raise structlog.DropEvent

    processors = [structlog.contextvars.merge_contextvars, keep]
    logger = structlog.wrap_logger(None, processors=processors)
    pool = make_pool(1, logger=logger, hung_after=0.01)
    with structlog.contextvars.bound_contextvars(request="r-77"):
        pool.submit(gate)
    gate.wait_started()
    until(lambda: ("task.still_running", "r-77") in lines)
    pool.stop(0.0)
    until(lambda: ("task.abandoned", "r-77") in lines)
    gate.release()


def test_no_format_in_a_name(make_pool: MakePool, records: Callable[[str], Records]) -> None:
    """A per cent sign in a task's name is no format to the stdlib."""
    handler = records("app.pools")
    pool = make_pool(1, logger=logging.getLogger("app.pools"))
    pool.options(task="100%s %d %(x)s").submit(boom).exception(PATIENCE)
    pool.stop()
    assert "task=100%s %d %(x)s" in handler.records[1].getMessage()


def test_configured_structlog(make_pool: MakePool, configure: Callable[[], list[dict[str, Any]]]) -> None:
    """Without a logger, what the application configured structlog to do is done."""
    lines = configure()
    use(make_pool(1, logger=None))
    assert [line["event"] for line in lines] == [
        "pool.created",
        "task.error",
        "pool.draining",
        "pool.stopped",
    ]


def test_structlog_configured_later(
    make_pool: MakePool, configure: Callable[[], list[dict[str, Any]]], records: Callable[[str], Records]
) -> None:
    """A pool that is older than structlog's configuration writes to stdlib before, and to structlog after."""
    handler = records("prodpool")
    pool = make_pool(1, logger=None)
    pool.submit(int).result(PATIENCE)
    assert flush_telemetry(pool)
    lines = configure()
    use(pool)
    assert [head.split()[0] for _, head in handler.heads] == ["pool.created"]
    assert [line["event"] for line in lines] == ["task.error", "pool.draining", "pool.stopped"]


def test_what_is_bound_to_the_context(make_pool: MakePool) -> None:
    """A line bears what structlog.contextvars has bound where it came about; another thread writes it."""
    lines: list[tuple[str, str]] = []

    def keep(_logger: object, _method: str, fields: Any) -> Any:
        lines.append((fields["event"], fields.get("request", "")))
        raise structlog.DropEvent

    processors = [structlog.contextvars.merge_contextvars, keep]
    pool = make_pool(2, logger=structlog.wrap_logger(None, processors=processors))
    with structlog.contextvars.bound_contextvars(request="r-77"):
        pool.resize(1)
    pool.resize(2)
    assert flush_telemetry(pool)
    assert lines == [("pool.created", ""), ("pool.resized", "r-77"), ("pool.resized", "")]


@pytest.mark.usefixtures("configure")
def test_neither(make_pool: MakePool, records: Callable[[str], Records]) -> None:
    """Without a logger and without structlog's configuration it is the stdlib's logger prodpool."""
    handler = records("prodpool")
    use(make_pool(1, logger=None))
    assert [head.split()[0] for _, head in handler.heads] == [
        "pool.created",
        "task.error",
        "pool.draining",
        "pool.stopped",
    ]
    assert {record.name for record in handler.records} == {"prodpool"}


@pytest.mark.usefixtures("configure")
def test_one_null_handler(make_pool: MakePool) -> None:
    """However many pools there are, the library's logger has one handler that does nothing."""
    for _ in range(3):
        use(make_pool(1, logger=None))
    handlers = logging.getLogger("prodpool").handlers
    assert [type(handler) for handler in handlers].count(logging.NullHandler) == 1


def test_the_library_configures_nothing(make_pool: MakePool) -> None:
    """Neither structlog nor the root logger is configured by a pool."""
    structlog.reset_defaults()
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("prodpool").level)
    use(make_pool(1, logger=None))
    assert not structlog.is_configured()
    assert (root.level, list(root.handlers), logging.getLogger("prodpool").level) == before


SILENT = """
import logging, sys
from concurrent.futures import ThreadPoolExecutor
from prometheus_client import CollectorRegistry
from prodpool import InstrumentedPool, PoolFullError

def boom():
    raise ValueError("went off")

if sys.argv[1] == "configured":
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s", stream=sys.stdout)
pool = InstrumentedPool(
    ThreadPoolExecutor(1), name="quiet", queue_capacity=0, slow_after=0, registry=CollectorRegistry()
)
pool.options(task="fails").submit(boom).exception(10)
future = pool.submit_wait(len, "")
future.add_done_callback(lambda _: boom())
future.result(10)
pool.stop(5)
"""


def run(how: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SILENT, how], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True
    )
    return done.stdout, done.stderr


def test_nothing_configured_prints_nothing() -> None:
    """In a process that configured no log, failing and slow tasks and raising callbacks print nothing."""
    assert run("bare") == ("", "")


def test_the_root_logger_gets_it() -> None:
    """In a process that called logging.basicConfig(), warnings and worse are written, with their stacks."""
    out, err = run("configured")
    assert err == ""
    heads = [line for line in out.splitlines() if line.startswith("prodpool ")]
    assert heads[0].startswith("prodpool WARNING task.error ")
    assert "task=fails" in heads[0]
    assert "ValueError: went off" in out
    assert any(line.startswith("prodpool WARNING task.slow ") for line in heads)
    assert any(line.startswith("prodpool ERROR task.callback_error ") for line in heads)


@pytest.mark.parametrize("given", ["stdlib", "structlog"])
def test_levels_of_single_events(make_pool: MakePool, logs: Logs, given: str) -> None:
    """An event has the level that it was given, whoever writes it; others keep theirs."""
    records = Records()
    logger = logging.getLogger("test_levels")
    logger.propagate, logger.level = False, logging.DEBUG
    logger.addHandler(records)
    levels = {"task.slow": "debug", "task.error": "critical"}
    pool = make_pool(
        1, slow_after=0.0, log_levels=levels, logger=logger if given == "stdlib" else logs.logger
    )
    pool.submit(boom)
    pool.stop()
    if given == "stdlib":
        found = {record.getMessage().split()[0]: record.levelname.lower() for record in records.records}
    else:
        # Compared with the reference otherwise, which has the levels by default.
        found = {entry["event"]: entry["log_level"] for entry in logs.written}
        logs.written.clear()
    assert {**found, "pool.created": "info"} == found
    assert (found["task.slow"], found["task.error"]) == ("debug", "critical")


def test_every_event_can_be_given_a_level() -> None:
    """The events that `log_levels` takes are those of the reference."""
    assert sorted(LOG_EVENTS) == sorted(documented())
