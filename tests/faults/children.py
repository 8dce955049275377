"""Running a program of this folder and reading what it says, one JSON object a line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.support import IN_CI, ROOT

# Whether all points are tried of everything, which takes some minutes on each interpreter: in CI on the first
# and the newest.
ALL = os.environ.get("PRODPOOL_FAULTS", "all" if IN_CI else "sample") == "all"
# Where a thread hangs for ever whose future's lock was lost: without memory for the arguments of
# ``Condition.__exit__``, CPython leaves the lock taken, and the executor's thread cannot end.
LOST_LOCK = re.compile(r'threading\.py", line \d+ in __enter__\n.*concurrent/futures/_base\.py"')
# How a process ends in which CPython has gone wrong, as no Python code can have it.
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS}


@dataclass(frozen=True)
class Told:
    """What a program said.

    Attributes:
        status: Its exit status; negative for a signal.
        lines: The objects it printed.
        err: What it wrote to stderr, stacks of a hang among it.
    """

    status: int
    lines: list[dict[str, Any]]
    err: str

    def broken(self) -> list[str]:
        """Return one sentence for each point or pool that broke."""
        return [
            f"{line.get('scenario', '')} point {line.get('point', '')} {line.get('where', '')}: "
            + "; ".join(line["problems"])
            for line in self.lines
            if line.get("problems")
        ]


def run(program: str, *args: str, seconds: float) -> Told:
    """Run a program to its end, or kill it after ``seconds``; it dumps its stacks a little before that."""
    command = [sys.executable, "-m", f"tests.faults.programs.{program}", *args, "--seconds", str(seconds - 5)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as late:
        return Told(-9, _lines(_text(late.stdout)), _text(late.stderr))
    return Told(done.returncode, _lines(done.stdout), done.stderr)


def run_fragile(program: str, name: str, *args: str, seconds: float) -> Told:
    """Run a scenario at whose points CPython itself may crash; go on behind each such point."""
    ends, after, lines = time.monotonic() + seconds, 0, list[dict[str, Any]]()
    while True:
        left = max(10.0, ends - time.monotonic())
        told = run(program, name, *args, "--after", str(after), seconds=left)
        lines += told.lines
        begun = [line["begun"] for line in told.lines if "begun" in line]
        if any("ending" in line for line in told.lines) and (
            told.status in CRASHES or LOST_LOCK.search(told.err)
        ):
            return Told(0, lines, told.err)  # all points were tried, and CPython itself could not end well
        if told.status not in CRASHES or not begun:
            return Told(told.status, lines, told.err)
        after = begun[-1]


def _text(output: str | bytes | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]


def check(told: Told) -> None:
    """Fail with all that broke, or with the end of stderr if the program did not end well."""
    broken = told.broken()
    assert not broken, "\n".join([f"{len(broken)} broken", *broken[:40]])
    assert told.status == 0, (told.status, told.lines[-3:], told.err[-3000:])


def sample(points: int, at_most: int | None = None) -> list[str]:
    """Return the option that keeps a campaign to a sample, unless all points (or ``at_most``) are wanted."""
    wanted = at_most if ALL else points
    return [] if wanted is None else ["--points", str(wanted)]
