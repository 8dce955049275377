"""Stacks of tasks as text, and what each of them waits for: ``prodpool stacks``.

Two forms are read: that of Python's tracebacks, as in the log and in ``pool.dump()``, and that of py-spy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

_TRACEBACK_FRAME = re.compile(r'^\s*File "(?P<file>.+)", line (?P<line>\d+), in (?P<function>.+)$')
_PY_SPY_FRAME = re.compile(r"^\s+(?P<function>\S.*) \((?P<file>[^()]+?):(?P<line>\d+)\)$")
_PY_SPY_THREAD = re.compile(r"^Thread ")
_THREAD_NAME = re.compile(r'^Thread .*: "(.*)"$', re.MULTILINE)
_NUMBERS = re.compile(r"[-_]\d+$")
# The frame of py-spy's below which a task begins: in a thread, and in a worker process.
_RUNS_TASKS = re.compile(r"prodpool/(execution/runner|workers/in_worker/call)\.py$")


class WaitsFor(StrEnum):
    """What the innermost frames of a stack say that it waits for."""

    RESULT = "another task's result"
    RESOURCE = "a lock or a queue"
    NETWORK = "the network"
    NOTHING = "nothing known"


@dataclass(frozen=True, slots=True)
class StackFrame:
    """One frame of a stack."""

    function: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.function} ({self.file.rpartition('/')[2]}:{self.line})"


@dataclass(frozen=True, slots=True)
class Wait:
    """What a task waits for, and where in its own code: empty where there is none of that.

    ``threads`` is the name that the threads of its pool have in common, where that is known.
    """

    what: WaitsFor
    where: str
    threads: str = ""


# Modules in which a wait is found, and the functions of theirs that say for what; None for all of them.
_WAITS: tuple[tuple[WaitsFor, re.Pattern[str], frozenset[str] | None], ...] = (
    (
        WaitsFor.RESULT,
        re.compile(r"(prodpool/task/future|concurrent/futures/_base)\.py$"),
        frozenset({"result", "exception", "wait", "as_completed", "result_iterator"}),
    ),
    (
        WaitsFor.NETWORK,
        re.compile(
            r"(^|/)(socket|ssl|selectors|http/client)\.py$"
            r"|(^|/)(urllib3|httpcore|httpx|requests|aiohttp|psycopg\w*|pymysql|redis|botocore|grpc)/"
        ),
        None,
    ),
    (WaitsFor.RESOURCE, re.compile(r"(^|/)(threading|queue)\.py$"), None),
)


def what_it_waits_for(frames: Iterable[StackFrame]) -> Wait:
    """Tell what a stack waits for; ``frames`` from the innermost outwards."""
    what = WaitsFor.NOTHING
    for frame in frames:
        found = next((one for one in _WAITS if one[1].search(frame.file)), None)
        if found is None:
            return Wait(what, str(frame))
        word, _, functions = found
        # The outermost of them tells most: a lock within `result` is that of the result.
        if functions is None or frame.function.rpartition(".")[2] in functions:
            what = word
    return Wait(what, "")


def frames_of(text: str) -> list[StackFrame]:
    """Return the frames of one stack in the form of a traceback, from the innermost outwards."""
    found = (_TRACEBACK_FRAME.match(line) for line in text.splitlines())
    return [_frame(one) for one in found if one][::-1]


def waits_in(text: str) -> Counter[Wait]:
    """Count what the tasks wait for whose stacks are in ``text``: a dump of py-spy, or ``pool.dump()``."""
    if _is_of_py_spy(text):
        blocks = list(_py_spy_blocks(text))
    else:
        blocks = [("", frames_of(block)) for block in text.split("\n\n")]
    return Counter(replace(what_it_waits_for(frames), threads=name) for name, frames in blocks if frames)


def stacks_table(text: str) -> list[str]:
    """Return the lines of a table of what the tasks wait for, most of them first."""
    rows = [("tasks", "threads", "wait for", "at")]
    rows += [
        (str(count), wait.threads, wait.what, wait.where) for wait, count in waits_in(text).most_common()
    ]
    return table(rows)


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines with aligned columns, the first of them to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].rjust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def _is_of_py_spy(text: str) -> bool:
    return any(_PY_SPY_THREAD.match(line) for line in text.splitlines())


def _py_spy_blocks(text: str) -> Iterator[tuple[str, list[StackFrame]]]:
    for block in re.split(r"^(?=Thread )", text, flags=re.MULTILINE):
        name = _THREAD_NAME.search(block)
        found = (_PY_SPY_FRAME.match(line) for line in block.splitlines())
        frames = [_frame(one) for one in found if one]
        end = next((at for at, frame in enumerate(frames) if _RUNS_TASKS.search(frame.file)), 0)
        yield _NUMBERS.sub("", name[1]) if name else "", frames[:end]


def _frame(found: re.Match[str]) -> StackFrame:
    return StackFrame(found["function"], found["file"], int(found["line"]))
