"""What a worker process sets up before its first task.

It lets the pool see where a task hangs: a signal has `faulthandler` write the stacks of all threads to a
socket, in C, also while a task holds the interpreter's lock. And it ends with the process that it works for:
a worker whose service was killed would wait for tasks for ever.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import wait
from types import FrameType

# A signal that few applications use; None where there is none, or no faulthandler that could answer it.
STACKS_SIGNAL: int | None = (
    None if sys.platform == "win32" else getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 5) + 5
)


def register_stack_dumps(stacks: socket.socket) -> bool:
    """Have the stacks of all threads written to ``stacks`` when the pool sends `STACKS_SIGNAL`.

    False where that cannot be: the signal would end the process.
    """
    # A dump that is not read must not hold up the task.
    stacks.settimeout(0.0)
    with suppress(OSError, ValueError, AttributeError):
        if STACKS_SIGNAL is not None and not is_signal_taken():
            faulthandler.register(STACKS_SIGNAL, stacks.fileno(), all_threads=True, chain=False)
            return True
    return False


def is_signal_taken() -> bool:
    """Tell whether the application has a use of its own for `STACKS_SIGNAL`."""
    return STACKS_SIGNAL is not None and signal.getsignal(STACKS_SIGNAL) not in {signal.SIG_DFL, None}


def ignore_keyboard() -> None:
    """Leave Ctrl-C in a terminal, which all processes there are sent, to the pool's process.

    By a handler that does nothing, and not by ``SIG_IGN``, which a program that a task starts would inherit.
    """
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, _do_nothing)
        # A forked worker has that of the service's event loop, which would take its signals for its own.
        signal.set_wakeup_fd(-1)


def _do_nothing(_signum: int, _frame: FrameType | None) -> None: ...


def end_with_parent() -> None:
    """Have this process end when the one that started it has."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _watch(parent.sentinel)


def _watch(sentinel: int | None) -> None:
    started_by = os.getppid()

    def watch() -> None:
        # The sentinel tells at once, but not while a process forked after this one holds its other end; and
        # loky's workers have none.
        while os.getppid() == started_by:
            if sentinel is None:
                time.sleep(1.0)
            elif wait([sentinel], 1.0):
                break
        os._exit(1)

    threading.Thread(target=watch, name="prodpool-end-with-parent", daemon=True).start()
