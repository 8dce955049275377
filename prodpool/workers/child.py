"""What a worker process sets up when the first task of a pool comes to it.

It lets the pool see where a task hangs: a signal has `faulthandler` write the stacks of all threads to a
file, in C, also while a task holds the interpreter's lock. And it ends with the process that it works for:
a worker whose service was killed would wait for tasks for ever.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import IO, Any

# A signal that hardly anybody uses; None where there is none, or no faulthandler that could answer it.
STACKS_SIGNAL: int | None = (
    None if sys.platform == "win32" else getattr(signal, "SIGRTMIN", signal.SIGUSR2 - 5) + 5
)

# The beacons of the pools whose tasks have come here, and the file that stacks are written to.
known: set[str] = set()
_stacks: IO[bytes] | None = None
_watches_parent = False


def stacks_file(beacon: str, pid: int) -> Path:
    """Return where the process ``pid`` writes its stacks for the pool with that beacon."""
    return Path(f"{beacon}.{pid}")


def settle_in(beacon: str) -> None:
    """Set up what a pool expects of a process that runs its tasks."""
    end_with_parent()
    known.add(beacon)
    with suppress(OSError, ValueError, AttributeError):
        _offer_stacks(stacks_file(beacon, os.getpid()))


def _offer_stacks(path: Path) -> None:
    global _stacks  # noqa: PLW0603  # a signal has one handler per process
    if _stacks is not None:
        path.symlink_to(_stacks.name)
    elif STACKS_SIGNAL is not None and signal.getsignal(STACKS_SIGNAL) is signal.SIG_DFL:
        _stacks = path.open("wb", buffering=0)
        faulthandler.register(STACKS_SIGNAL, _stacks, all_threads=True, chain=False)


def end_with_parent(initializer: Callable[..., object] | None = None, *args: Any) -> None:
    """Have this process end when the one that started it has; then call ``initializer``."""
    global _watches_parent  # noqa: PLW0603
    parent = multiprocessing.parent_process()
    if parent is not None and not _watches_parent:
        _watches_parent = True
        _watch(parent.sentinel)
    if initializer is not None:
        initializer(*args)


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


def _after_fork() -> None:
    # What a task forks is no worker: nobody asks it for stacks, and it may outlive us.
    global _stacks, _watches_parent
    known.clear()
    _stacks, _watches_parent = None, False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
