"""Stacks as text: without local variables, which hold task arguments, and without our own frames."""

from __future__ import annotations

import traceback
from types import FrameType, TracebackType

from prodpool.errors import WorkerLostError
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.text import short_stack, type_name


def without_own_frames(tb: TracebackType | None) -> TracebackType | None:
    """Skip this package's frames at the head of a traceback: they tell nothing and hold the task."""
    while tb is not None and _is_ours(tb.tb_frame):
        tb = tb.tb_next
    return tb


def render_error(error: BaseException) -> str:
    """Render an exception and its stack as text, without local variables.

    The stack of a task whose worker was lost is lost too: then this is one line. What its error was caused by
    was raised in the pool's own threads and tells nothing more.
    """
    try:
        if isinstance(error, WorkerLostError) and _has_no_stack(error):
            return short_stack(traceback.format_exception_only(error))
        return short_stack(traceback.format_exception(error))
    except Exception:  # noqa: BLE001  # an exception's own properties may raise
        frames = traceback.format_tb(error.__traceback__)
        return short_stack([*frames, f"{type_name(error)} (it could not be rendered)"])


def _has_no_stack(error: BaseException) -> bool:
    # A task may raise one that it has got from another pool.
    return error.__traceback__ is None and not isinstance(error.__cause__, RemoteTraceback)


def render_frame(frame: FrameType) -> str:
    """Render the live stack that ends in ``frame``, from the task's own outermost frame on."""
    frames = list(traceback.walk_stack(frame))[::-1]
    # Outermost first now: the thread's start, the worker's loop (ours), the task, which may well have
    # called into this package again.
    loop = next((index for index, (each, _) in enumerate(frames) if _is_ours(each)), 0)
    task = next((index for index in range(loop, len(frames)) if not _is_ours(frames[index][0])), loop)
    return short_stack(traceback.StackSummary.extract(iter(frames[task:])).format())


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("prodpool.")
