"""What is done once in a forked child, where no thread of ours runs and any lock may be held for ever.

``os.register_at_fork`` is not enough: a fork made in C, as uWSGI makes it, runs no hook of Python's. So the
kernel wipes a page of memory in every child, and a reader finds its mark gone. To read it takes some 15 ns,
where ``os.getpid`` takes 140 (CPython 3.11, 2026-11).
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

Mark: TypeAlias = "mmap.mmap | bytearray"
# Of madvise(2), Linux 4.14 on. CPython has no name for it.
_WIPE_ON_FORK = 18
_hooks: list[Callable[[], None]] = []
# By process, so that none of them is held by a thread that stayed in the parent. `setdefault` is atomic.
_locks: dict[int, threading.RLock] = {}


# The process in which the hooks were run last, or this module was imported.
_ran_in = os.getpid()


def _new_mark() -> Mark:
    if sys.platform == "linux":
        with suppress(OSError, ValueError):
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page.madvise(_WIPE_ON_FORK)
            page[0] = 1
            return page
    return bytearray(b"\1")


_mark = _new_mark()


def process_mark() -> Mark:
    """Return this process's mark: its first byte is 1 here, and 0 in every child that is forked after this.

    Where the kernel cannot wipe memory, the hooks set it to 0, and so not after a fork made in C.
    """
    notice_fork()
    return _mark


def register(hook: Callable[[], None]) -> None:
    """Have ``hook`` called in every child that is forked from now on, after those registered before it.

    It may be called once more if an interrupt comes in the midst of the hooks.
    """
    _hooks.append(hook)


def notice_fork() -> None:
    """Call the hooks if this process was forked in C and they were not called yet."""
    if not _mark[0]:
        _run_hooks()


def is_of_this_process(mark: Mark) -> bool:
    """Tell whether a mark is known to be this process's; it is not where the kernel wipes nothing."""
    return isinstance(mark, mmap.mmap) and bool(mark[0])


def _ran_here() -> bool:
    return is_of_this_process(_mark) if isinstance(_mark, mmap.mmap) else _ran_in == os.getpid()


def _run_hooks() -> None:
    """Call the hooks, unless that was done in this process, perhaps by a hook of the application's."""
    global _mark, _ran_in  # one per process is the point
    if _ran_here():
        return
    with _locks.setdefault(os.getpid(), threading.RLock()):
        interrupt: BaseException | None = None
        for hook in _hooks:
            if _ran_here():  # by another thread, or by a signal handler on top of this frame
                return
            try:
                hook()
            except Exception:  # noqa: BLE001, S110  # as Python does it: the others are to run all the same
                pass
            except BaseException as error:  # noqa: BLE001  # a signal handler's: likewise
                interrupt = error
        inherited, new = _mark, _new_mark()
        inherited[0] = 0
        _ran_in, _mark = os.getpid(), new
    if interrupt is not None:
        raise interrupt


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_run_hooks)
