"""Text from outside comes out printable and short, whatever it was."""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn

import pytest

from prodpool.telemetry.tracebacks import render_error, render_frame
from prodpool.text import (
    LONGEST_LINE,
    LONGEST_NAME,
    LONGEST_STACK,
    said,
    short_line,
    short_name,
    shown,
    type_name,
)

HUGE = 10_000_000


class SilentError(Exception):
    """An exception that says nothing of itself."""

    def __str__(self) -> str:
        raise LookupError

    __repr__ = __str__


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        pytest.param("resize", "resize", id="plain"),
        pytest.param("größe 日本", "größe 日本", id="not-ascii"),
        pytest.param("a\nb\r\tc", "a\\nb\\r\\tc", id="line-breaks"),
        pytest.param("\x1b[31mred\x9b", "\\x1b[31mred\\x9b", id="escape-codes"),
        pytest.param("a\u2028b\u202ec", "a\\u2028b\\u202ec", id="breaks-and-turns-of-unicode"),
        pytest.param("\ud800", "\\ud800", id="half-a-character"),
        pytest.param("x" * 201, "x" * 197 + "...", id="long"),
        pytest.param("\n" * 150, "\\n" * 98 + "\\...", id="long-when-escaped"),
    ],
)
def test_name(text: str, printed: str) -> None:
    """What cannot be printed is escaped, and a name ends after 200 characters."""
    assert short_name(text) == printed
    assert len(printed) <= LONGEST_NAME


def test_what_is_shown_of_values() -> None:
    """A representation is one bounded line, also of a value that has none."""
    assert shown(KeyError("a\nb")) == r"KeyError('a\nb')"
    assert said(ValueError("a\nb")) == r"a\nb"
    assert len(shown("x" * HUGE)) == len(short_line("x" * HUGE)) == LONGEST_LINE
    assert shown(SilentError()) == "<SilentError whose repr() fails>"
    assert said(SilentError()) == "<SilentError whose str() fails>"
    assert type_name(type("Evil\nError\x1b", (Exception,), {})()) == r"Evil\nError\x1b"


def sink(depth: int, text: str) -> NoReturn:
    # Two calls that alternate, which `traceback` does not fold into one line.
    if depth % 2:
        sink(depth - 1, text)
    if depth:
        sink(depth - 1, text)
    raise ValueError(text)


def error_from(depth: int, text: str) -> ValueError:
    try:
        sink(depth, text)
    except ValueError as error:
        return error


@pytest.mark.parametrize("text", ["short", "x" * HUGE, "x\n" * 100_000], ids=["short", "one-line", "lines"])
def test_stack(text: str) -> None:
    """A stack keeps its beginning and its end, with the last frames, and says what was left out between."""
    rendered = render_error(error_from(300, text))
    assert len(rendered) < LONGEST_STACK + 200
    assert rendered.startswith("Traceback (most recent call last):\n")
    assert "characters left out]" in rendered
    assert "raise ValueError(text)" in rendered
    assert rendered.rstrip("x\n").count("ValueError: ") == 1


def test_stack_that_is_short() -> None:
    """A stack of ordinary length is given as Python prints it."""
    error = error_from(1, "boom")
    assert render_error(error) == "".join(traceback.format_exception(error)).rstrip()


def test_escape_codes_in_a_stack() -> None:
    """A stack keeps its line breaks, and nothing else that does not print."""
    rendered = render_error(error_from(0, "a\nb\x1b[2J\r"))
    assert rendered.endswith("ValueError: a\nb\\x1b[2J\\r")
    assert all(line.isprintable() for line in rendered.split("\n"))


def test_live_stack() -> None:
    """The live stack of a thread is bounded as well, and ends where the thread is."""

    def deep(depth: int) -> str:
        if depth % 2:
            return deep(depth - 1)
        if depth:
            return deep(depth - 1)
        return render_frame(sys._getframe())

    rendered = deep(300)
    assert len(rendered) < LONGEST_STACK + 200
    assert rendered.endswith("return render_frame(sys._getframe())")
