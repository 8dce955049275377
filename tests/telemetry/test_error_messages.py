"""The text of exceptions in the log: its first line, or nothing of it at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from prodpool.telemetry.tracebacks import render_error
from prodpool.text import LONGEST_MESSAGE
from tests.helpers.tasks import TaskError
from tests.helpers.telling import SECRET, TELLING, chain, check_untold, throw
from tests.helpers.waiting import PATIENCE, until
from tests.support import Logs, MakePool
from tests.telemetry.tracer import Spans, attributes_of


class OddError(Exception):
    """An exception whose text is what ``text`` returns, or raises."""

    def __init__(self, text: Callable[[], Any]) -> None:
        super().__init__()
        self.text = text

    def __str__(self) -> Any:
        return self.text()


class Text(str):
    """A text that refuses to be looked at."""

    __slots__ = ()

    def __getitem__(self, _: object) -> str:
        raise RuntimeError("no")

    strip = partition = __getitem__  # type: ignore[assignment]


def leave() -> str:
    raise SystemExit(1)


def interrupt() -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TaskError("no such order"), "no such order"),
        (TaskError(), ""),
        (TaskError(7, "b"), "(7, 'b')"),
        (KeyError("a b"), "'a b'"),
        (TaskError("first\nsecond\nthird"), "first"),
        (TaskError("\n\n  first\r\nsecond"), "first"),
        (TaskError("red \x1b[31m\x00\x9b \u2028\ud800"), "red \\x1b[31m\\x00\\x9b \\u2028\\ud800"),
        (TaskError("x" * LONGEST_MESSAGE), "x" * LONGEST_MESSAGE),
        (TaskError("x" * 10_000_000), "x" * (LONGEST_MESSAGE - 3) + "..."),
        (OddError(lambda: 7), "<OddError whose str() fails>"),
        (OddError(interrupt), "<OddError whose str() fails>"),
        (OddError(lambda: int("x")), "<OddError whose str() fails>"),
        (OddError(leave), "<OddError whose str() fails>"),
        (OddError(lambda: Text("x")), "<OddError whose str() fails>"),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("panics", [(), (Exception,)], ids=["task.error", "task.panic"])
def test_the_first_line(
    make_pool: MakePool,
    logs: Logs,
    panics: tuple[type[Exception], ...],
    error: Exception,
    message: str,
) -> None:
    """A failed task's line has the first line of the text, printable and short, whatever the text is like."""
    make_pool(1, panics=panics).submit(throw, error).exception(PATIENCE)
    assert logs.wait_for("task.panic" if panics else "task.error")["error_message"] == message


def test_beside_the_fields_of_the_standard_library(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an attribute of the record, and no format of it."""
    logger = logging.getLogger("test_error_messages")
    with caplog.at_level(logging.INFO, logger.name):
        pool = make_pool(1, logger=logger)
        pool.submit(throw, TaskError("100 %s %d {}")).exception(PATIENCE)
        pool.stop()
    (record,) = [one for one in caplog.records if one.msg.startswith("task.error")]
    assert vars(record)["error_message"] == "100 %s %d {}"
    assert "error=TaskError error_message=100 %s %d {}\n" in record.getMessage()


# Without messages


@pytest.mark.parametrize("fn", TELLING)
def test_without_messages(make_pool: MakePool, logs: Logs, fn: Callable[[str], None]) -> None:
    """With log_messages=False a line has the class and the frames, and no text of any exception."""
    error = make_pool(1, log_messages=False).submit(fn, SECRET).exception(PATIENCE)
    assert error is not None
    check_untold(logs.wait_for("task.error"), fn, error)


def test_the_search_would_find_it() -> None:
    """The stacks above have the secret where messages are shown."""
    for fn in TELLING:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            fn(SECRET)
        assert SECRET in render_error(caught.value)
        assert SECRET not in render_error(caught.value, messages=False)


def test_every_class_of_a_chain(make_pool: MakePool, logs: Logs) -> None:
    """What caused what is seen without messages, too, and a chain that runs in a circle ends."""

    def task() -> None:
        first, second = TaskError("a"), LookupError("b")
        first.__cause__, second.__cause__ = second, first
        raise first

    pool = make_pool(1, log_messages=False)
    pool.submit(chain, SECRET).exception(PATIENCE)
    stack = str(logs.wait_for("task.error")["stack"])
    assert stack.index("tests.helpers.tasks.TaskError\n\nDuring handling") < stack.index(
        "LookupError\n\nThe above"
    )
    assert stack.endswith("\nValueError")
    pool.submit(task).exception(PATIENCE)
    assert str(logs.wait_for("task.error", count=2)["stack"]).count("LookupError") == 1


@contextmanager
def around() -> Iterator[None]:
    try:
        yield
    except TaskError as error:
        raise LookupError("broken") from error


def test_nowhere_in_the_log(make_pool: MakePool, logs: Logs, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a done-callback's line nor a report on what is around a task has a text; a span has it."""
    spans = Spans()
    pool = make_pool(1, log_messages=False, around=around, tracer_provider=spans.provider)
    future = pool.options(task="tells").submit(throw, TaskError(SECRET))
    future.exception(PATIENCE)
    future.add_done_callback(lambda done: throw(LookupError(str(done.exception(0)))))
    logs.wait_for("task.callback_error")
    until(lambda: "sink=around" in caplog.text)
    assert "in around" in caplog.text
    pool.stop()
    assert SECRET not in caplog.text + repr(logs.entries)
    (event,) = [one for one in spans.named("workerpool.task tells").events if one.name == "exception"]
    assert dict(event.attributes or {})["exception.message"] == SECRET


# Spans


@pytest.mark.parametrize(
    ("options", "result"), [({"expected": (TaskError,)}, "expected"), ({}, "cancelled")], ids=str
)
def test_the_span_of_no_failure(make_pool: MakePool, options: dict[str, Any], result: str) -> None:
    """A task that was cancelled, or raised what is expected, has a span with the exception and no error."""
    spans = Spans()
    pool = make_pool(1, tracer_provider=spans.provider, **options)
    error = TaskError("no") if options else asyncio.CancelledError("no")
    pool.options(task="ends").submit(throw, error).exception(PATIENCE)
    span = spans.named("workerpool.task ends")
    assert attributes_of(span)["workerpool.result"] == result
    assert span.status.is_unset
    (event,) = [one for one in span.events if one.name == "exception"]
    assert dict(event.attributes or {})["exception.message"] == "no"
