"""Text from outside, made fit for a log line, a span, an error message or a terminal.

The name of a callable, and the type, text and stack of an exception, are the application's, or come from
the senders of its data. A line break in one would forge a log line, an escape code would reach a terminal,
and each may be megabytes long. Everything of that kind which the pool writes goes through here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

LONGEST_NAME = 200
LONGEST_LINE = 500
LONGEST_MESSAGE = 200
LONGEST_STACK = 8000
# Of one frame, or of the text of one exception; the stack of a worker process is such a text.
_LONGEST_PART = 5000


def short_name(text: str) -> str:
    """Return a name in one printable line of at most `LONGEST_NAME` characters."""
    return short_line(text, LONGEST_NAME)


def short_line(text: str, most: int = LONGEST_LINE) -> str:
    """Return the beginning of a text in one printable line of at most ``most`` characters."""
    if len(text) <= most and text.isprintable():
        return text
    line = _escape(text[:most])
    return line if len(line) <= most and len(text) <= most else f"{line[: most - 3]}..."


def type_name(value: object) -> str:
    """Return the name of a value's type; anybody may have made it."""
    try:
        return short_name(str(type(value).__qualname__))
    except Exception:  # noqa: BLE001  # a metaclass may do anything
        return "object"


def full_type_name(value: object) -> str:
    """Return that name with its module's, as OpenTelemetry writes an exception's type."""
    module = getattr(type(value), "__module__", None)
    name = type_name(value)
    return name if module in {None, "", "builtins"} else short_name(f"{module}.{name}")


def shown(value: object) -> str:
    """Return what `repr` says of a value, such as an exception, in one short line."""
    try:
        return short_line(repr(value))
    except BaseException as raised:  # the application's own code
        if _is_interrupt(raised):
            raise
        return f"<{type_name(value)} whose repr() fails>"


def _is_interrupt(error: BaseException) -> bool:
    """Tell whether it is Ctrl-C, which comes in the main thread alone, and not what a ``__str__`` raises."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def said(error: BaseException) -> str:
    """Return the text of an exception in one short line."""
    try:
        return short_line(str(error))
    except BaseException as raised:  # likewise
        if _is_interrupt(raised):
            raise
        return f"<{type_name(error)} whose str() fails>"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's text, printable and of at most `LONGEST_MESSAGE` characters."""
    try:
        # What is beyond is not looked at: it may be megabytes.
        line = str(error)[:LONGEST_STACK].strip().partition("\n")[0].rstrip()
        return short_line(line, LONGEST_MESSAGE)
    except BaseException as raised:  # likewise
        if _is_interrupt(raised):
            raise
        return f"<{type_name(error)} whose str() fails>"


def short_stack(parts: Iterable[str]) -> str:
    """Return a stack of at most some `LONGEST_STACK` characters, with what is too much cut out of its middle.

    ``parts``: frames and exceptions, outermost first, as `traceback` formats them. Line breaks stay.
    """
    text = "".join(_cut(part, _LONGEST_PART) for part in parts)
    lines = _cut(text, LONGEST_STACK).rstrip("\n ").split("\n")
    return "\n".join(map(_escape, lines))


def _cut(text: str, most: int) -> str:
    """Keep a quarter at the beginning and the rest at the end, where the last frames are."""
    if len(text) <= most:
        return text
    head, tail = text[: most // 4], text[-(most - most // 4) :]
    # At line breaks, if there are any.
    head = head[: head.rfind("\n") + 1] or f"{head}\n"
    tail = tail[tail.find("\n") + 1 :].lstrip("\n") or tail
    return f"{head}  [{len(text) - len(head) - len(tail)} characters left out]\n{tail}"


def _escape(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )
