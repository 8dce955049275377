"""Running the programs of this folder and seeing how they end."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
# Seconds after which a child is taken to hang. It is killed, and its status is then negative.
TOO_LONG = 40.0
# Seconds beyond its deadline that a process may take to end: far from what it would take if a task that hangs
# were waited for, and from what a busy machine needs.
LEEWAY = 10.0


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        status: As the shell would see it; negative for a signal.
        out: Lines on stdout, at whose end nothing was flushed by the program itself.
        err: All of stderr.
        seconds: From the moment its end began until it was gone and its pipes were closed.
        spans: Names of the spans that were exported.
    """

    status: int
    out: list[str]
    err: str
    seconds: float
    spans: list[str]

    def events(self) -> list[str]:
        """Return the names of the events that the pools logged, in order."""
        return [line.split()[1] for line in self.out if line.startswith("LOG ")]

    def logged(self, event: str) -> str:
        """Return the first line logged of ``event``."""
        return next(line for line in self.out if line.startswith(f"LOG {event} "))


def start(program: str, *args: str) -> subprocess.Popen[str]:
    """Start a program of the folder, with all three streams through pipes."""
    command = [sys.executable, str(PROGRAMS / f"{program}.py"), *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str], folder: Path, begun: list[str] | None = None) -> Ended:
    """Wait for the end; ``begun`` are the lines of stdout that were read already."""
    try:
        out, err = process.communicate(timeout=TOO_LONG)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    gone = time.monotonic()
    lines = [*(begun or []), *out.splitlines()]
    found = re.search(r"^ENDING (\S+)$", "\n".join(lines), re.MULTILINE)
    spans = folder / "spans"
    return Ended(
        process.returncode,
        lines,
        err,
        gone - float(found[1]) if found else float("inf"),
        spans.read_text().splitlines() if spans.exists() else [],
    )


def end(way: str, backend: str, folder: Path) -> Ended:
    """Run ``ending.py`` to its end."""
    return run("ending", way, backend, folder=folder / f"{way}-{backend}")


def run(program: str, *args: str, folder: Path) -> Ended:
    """Run a program, whose last argument is a folder of its own, to its end."""
    folder.mkdir()
    return finish(start(program, *args, str(folder)), folder)
