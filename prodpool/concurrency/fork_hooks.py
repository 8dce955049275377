"""What is done once in a forked child, where no thread of ours runs and any lock may be held for ever.

``os.register_at_fork`` is not enough: a fork made in C, as uWSGI makes it, runs no hook of Python's. So the
kernel wipes a page of memory in every child, and a reader finds its mark gone. To read it takes some 15 ns,
where ``os.getpid`` takes 140 (CPython 3.11, 2026-11).
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

Mark: TypeAlias = "mmap.mmap | bytearray"
# Of madvise(2), Linux 4.14 on. CPython has no name for it.
_WIPE_ON_FORK = 18
# Seconds between two looks of a thread that waits until another has run the hooks.
_PAUSE = 0.0005

_hooks: list[Callable[[], None]] = []
# By process: which thread runs the hooks. `setdefault` is atomic.
_claims: dict[int, object] = {}


def _new_mark() -> Mark:
    if sys.platform == "linux":
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        try:
            page.madvise(_WIPE_ON_FORK)
        except OSError:
            page.close()
        else:
            page[0] = 1
            return page
    return bytearray(b"\1")


_mark = _new_mark()


def process_mark() -> Mark:
    """Return this process's mark: its first byte is 1 here, and 0 in every child that is forked after this.

    Where the kernel cannot wipe memory, the hooks set it to 0, and so not after a fork made in C.
    """
    return _mark


def register(hook: Callable[[], None]) -> None:
    """Have ``hook`` called in every child that is forked from now on, after those registered before it."""
    _hooks.append(hook)


def notice_fork() -> None:
    """Call the hooks if this process was forked in C and they were not called yet."""
    if not _mark[0]:
        _run_hooks()


def _run_hooks() -> None:
    global _mark  # noqa: PLW0603  # one per process is the point
    inherited, token = _mark, object()
    if _claims.setdefault(os.getpid(), token) is not token:
        while _mark is inherited:
            time.sleep(_PAUSE)
        return
    try:
        for hook in _hooks:
            # As Python does it: one that raises must not keep the others from it.
            with suppress(Exception):
                hook()
    finally:
        inherited[0] = 0
        _mark = _new_mark()
        _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_run_hooks)
