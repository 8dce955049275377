"""Where a task hangs in a worker process of this host."""

from __future__ import annotations

import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prodpool.workers.child import STACKS_SIGNAL, stacks_file

# Seconds that a process is given to answer; it takes about a millisecond unless it is stopped.
PATIENCE = 0.5
_LOOK_EVERY = 0.002
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
_SHIM = str(Path(__file__).with_name("shim.py"))


class RemoteStacks:
    """Asks the worker processes of one pool.

    Args:
        beacon: Path of the pool's beacon.
        processes: Returns the processes there are.
    """

    def __init__(self, beacon: str, processes: Callable[[], list[Any]]) -> None:
        self._beacon = beacon
        self._processes = processes

    def of(self, pid: int) -> str:
        """Return the stack of the task that the process ``pid`` runs, innermost frame last."""
        path = stacks_file(self._beacon, pid)
        try:
            before = path.stat().st_size
            self._ask(pid)
            text = self._answer(path, before)
        except OSError as error:
            return f"(no stack: worker process {pid} cannot be asked: {error})"
        if not text:
            return f"(no stack: worker process {pid} did not answer within {PATIENCE} s)"
        return render(text)

    def close(self) -> None:
        """Remove the files."""
        beacon = Path(self._beacon)
        for path in beacon.parent.glob(f"{beacon.name}.*"):
            with suppress(OSError):
                path.unlink()

    def _ask(self, pid: int) -> None:
        """Send the signal, to no process but that one.

        Raises:
            OSError: It has ended.
        """
        if STACKS_SIGNAL is None:
            raise OSError("there are no such signals on this system")
        # The descriptor first: a number may be another's by the time it is looked at.
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        try:
            if not any(each.pid == pid and each.is_alive() for each in self._processes()):
                raise ProcessLookupError("it has ended")
            if handle is None:
                os.kill(pid, STACKS_SIGNAL)
            else:
                signal.pidfd_send_signal(handle, STACKS_SIGNAL)
        finally:
            if handle is not None:
                os.close(handle)

    def _answer(self, path: Path, before: int) -> str:
        """Return what the process has written, once it has written no more for a moment."""
        ends_at = time.monotonic() + PATIENCE
        seen = before
        while time.monotonic() < ends_at:
            time.sleep(_LOOK_EVERY)
            size = path.stat().st_size
            if size == seen and size > before:
                break
            seen = size
        with path.open("rb") as file:
            file.seek(before)
            return file.read().decode(errors="replace")


def render(text: str) -> str:
    """Return the task's part of what faulthandler wrote, as Python prints a stack."""
    threads = [_FRAME.findall(part) for part in re.split(r"\n(?=\S)", text)]
    frames = next((each for each in threads if any(file == _SHIM for file, _, _ in each)), None)
    if frames is None:
        return text.rstrip()
    # Innermost first here; what lies below the shim is the executor's.
    until = next(place for place, (file, _, _) in enumerate(frames) if file == _SHIM)
    task = frames[: until or 1]
    summary = [traceback.FrameSummary(file, int(line), name) for file, line, name in reversed(task)]
    return "".join(traceback.StackSummary.from_list(summary).format()).rstrip()
