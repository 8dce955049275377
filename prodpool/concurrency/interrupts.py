"""Questions that arise because a signal handler or a destructor may run on top of any frame."""

from __future__ import annotations

import contextvars
import sys
import threading
from types import TracebackType
from typing import Any


def held_here(lock: Any) -> bool:
    """Tell whether the calling thread holds ``lock``, which is reentrant."""
    try:
        # The one public way to ask: a condition refuses to notify for who does not hold its lock.
        threading.Condition(lock).notify(0)
    except RuntimeError:
        return False
    return True


def in_main_thread() -> bool:
    """Tell whether the calling thread is the one in which signal handlers run."""
    return threading.get_ident() == threading.main_thread().ident


def meant_for_thread(error: BaseException) -> bool:
    """Tell whether ``error``, which came up in code of ours, is for the thread and not about that code.

    Such are Ctrl-C, and what a signal handler raised, such as SystemExit; handlers run in the main thread.
    """
    return not isinstance(error, Exception) and in_main_thread()


class Unmasked:
    """Raises what a signal handler raised in the block, where ``threading`` has replaced it.

    ``Thread.start`` waits on a condition, and one that is interrupted before it has its lock back releases
    it all the same (CPython 78667). That "release unlocked lock" would be taken for a lack of threads.
    """

    def __enter__(self) -> None:
        self._before = sys.exception()

    def __exit__(self, _: object, error: BaseException | None, trace: TracebackType | None) -> None:
        if not isinstance(error, RuntimeError):
            return
        masked = error.__context__
        if masked is not None and masked is not self._before and meant_for_thread(masked):
            raise masked


def start_thread(thread: threading.Thread) -> None:
    """Start a thread of the pool's own, in an empty context: one started inside a span would keep that span.

    Raises:
        RuntimeError: The system has no thread to give.
    """
    with Unmasked():
        contextvars.Context().run(thread.start)
