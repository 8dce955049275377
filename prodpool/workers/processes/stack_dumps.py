"""Reads the stack of a task in a worker process of this host."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import traceback
from contextlib import suppress
from typing import Any

from prodpool.task import around_call
from prodpool.text import said, short_stack
from prodpool.workers.in_worker import call
from prodpool.workers.in_worker.setup import STACKS_SIGNAL

# Seconds that a process is given to answer; it takes about a millisecond unless it is stopped.
ANSWER_TIMEOUT = 0.5
# Seconds without another byte after which its answer is taken to be complete.
_END_OF_ANSWER = 0.005
_CHUNK = 1 << 16
_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<line>\d+) in (?P<name>.*)$', re.MULTILINE)
# What is around a task there, of ours.
_OWN_FILES = {module.__file__ for module in (call, around_call)}
# One question at a time, from all threads: the answers of one process would mingle.
_lock = threading.Lock()


def stack_of(process: Any, stacks: socket.socket) -> str:
    """Return the stack of the task that ``process`` runs, innermost frame last.

    Args:
        process: The worker process.
        stacks: What it writes to when it is sent the signal.
    """
    with _lock:
        try:
            stacks.settimeout(0.0)
            _read(stacks)
            _send_signal(process)
            stacks.settimeout(ANSWER_TIMEOUT)
            text = _read(stacks)
        except OSError as error:
            return f"(no stack: worker process {process.pid} cannot be asked: {said(error)})"
    if not text:
        return f"(no stack: worker process {process.pid} did not answer within {ANSWER_TIMEOUT} s)"
    return render(text)


def _send_signal(process: Any) -> None:
    """Send the signal, to no process but that one.

    Raises:
        OSError: It has ended.
    """
    if STACKS_SIGNAL is None:
        raise OSError("there are no such signals on this system")
    handle = None
    with suppress(AttributeError, OSError):  # not on this system, or not in this container
        # The descriptor first: a number may be another's by the time it is looked at.
        handle = os.pidfd_open(process.pid)
    try:
        if not process.is_alive():
            raise ProcessLookupError("it has ended")
        if handle is None:
            os.kill(process.pid, STACKS_SIGNAL)
        else:
            signal.pidfd_send_signal(handle, STACKS_SIGNAL)
    finally:
        if handle is not None:
            os.close(handle)


def _read(stacks: socket.socket) -> str:
    """Return what the process has written, once it has written no more for a moment."""
    parts = []
    with suppress(TimeoutError, BlockingIOError):
        while part := stacks.recv(_CHUNK):
            parts.append(part)
            stacks.settimeout(_END_OF_ANSWER)
    return b"".join(parts).decode(errors="replace")


def render(text: str) -> str:
    """Return the task's part of what faulthandler wrote, as Python prints a stack."""
    threads = [_FRAME.findall(part) for part in re.split(r"\n(?=\S)", text)]
    frames = next((each for each in threads if any(file in _OWN_FILES for file, _, _ in each)), None)
    if frames is None:
        return short_stack([text])
    # Innermost first here; what lies below our call is the worker's own.
    until = next(place for place, (file, _, _) in enumerate(frames) if file in _OWN_FILES)
    task = frames[: until or 1]
    summary = [traceback.FrameSummary(file, int(line), name) for file, line, name in reversed(task)]
    return short_stack(traceback.StackSummary.from_list(summary).format())
