"""Stacks as text: without local variables, which hold task arguments, and without our own frames."""

from __future__ import annotations

import re
import traceback
from types import FrameType, TracebackType

from prodpool.errors import WorkerLostError
from prodpool.task.remote_traceback import RemoteTraceback
from prodpool.text import full_type_name, short_stack, type_name

# A frame in a stack that is text: its place, the line of source below it and the marks below that. In an
# exception group they are indented behind a bar.
_FRAME = re.compile(
    r'^((?: +\| )?)  File ".*", line \d+, in .*\n(?:\1 {4}.*\n(?:\1 {4}[ ~^]+\n)?)?', re.MULTILINE
)


def without_own_frames(tb: TracebackType | None) -> TracebackType | None:
    """Skip this package's frames at the head of a traceback: they tell nothing and hold the task."""
    while tb is not None and _is_ours(tb.tb_frame):
        tb = tb.tb_next
    return tb


def render_error(error: BaseException, *, messages: bool = True) -> str:
    """Render an exception and its stack as text, without local variables.

    The stack of a task whose worker was lost is lost too: then this is one line. What its error was caused by
    was raised in the pool's own threads and tells nothing more.
    ``messages``: whether to show the texts of the exception, its causes and its notes.
    """
    try:
        if isinstance(error, WorkerLostError) and _has_no_stack(error):
            return short_stack(traceback.format_exception_only(error)) if messages else full_type_name(error)
        return short_stack(traceback.format_exception(error) if messages else _without_messages(error))
    except Exception:  # noqa: BLE001  # an exception's own properties may raise
        frames = traceback.format_tb(error.__traceback__)
        return short_stack([*frames, f"{type_name(error)} (it could not be rendered)"])


def _without_messages(error: BaseException) -> list[str]:
    """Format an exception and its causes as `traceback` does, with the class in place of each text."""
    chain, joints, seen = [error], [""], {id(error)}
    while (following := _cause_of(chain[-1])) is not None and id(following[0]) not in seen:
        chain.append(following[0])
        joints.append(following[1])
        seen.add(id(following[0]))
    parts: list[str] = []
    for each, joint in zip(reversed(chain), reversed(joints), strict=True):
        parts += _frames_of(each)
        if not isinstance(each, RemoteTraceback):
            parts.append(f"{full_type_name(each)}\n")
        if isinstance(each, BaseExceptionGroup):
            for member in each.exceptions:
                parts += [f"  {line}\n" for part in _without_messages(member) for line in part.splitlines()]
        if joint:
            parts.append(f"\n{joint}\n\n")
    return parts


def _cause_of(error: BaseException) -> tuple[BaseException, str] | None:
    """Return what an exception was caused by, and the words that join the two stacks."""
    if isinstance(error.__cause__, RemoteTraceback):
        return error.__cause__, ""  # its own stack
    if error.__cause__ is not None:
        return error.__cause__, "The above exception was the direct cause of the following exception:"
    if error.__context__ is not None and not error.__suppress_context__:
        return error.__context__, "During handling of the above exception, another exception occurred:"
    return None


def _frames_of(error: BaseException) -> list[str]:
    if isinstance(error, RemoteTraceback):
        # All else in it may be a part of a message.
        lines = [found[0] for found in _FRAME.finditer(error.tb)]
    else:
        lines = traceback.format_tb(error.__traceback__)
    return ["Traceback (most recent call last):\n", *lines] if lines else []


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
