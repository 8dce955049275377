"""The names of tasks that a pool counts apart from all others."""

from __future__ import annotations

from collections.abc import Iterable

from prodpool.text import LONGEST_NAME, shown

# What all other tasks are counted as.
OTHER = "other"
# Each name is five series of every process, for as long as the service lives.
MOST_TASKS = 50
_SUCH_AS = "such as ('send_mail', 'resize')"


def check_task_metrics(names: object) -> tuple[str, ...]:
    """Return ``names`` if each can be a task's name, and there are not too many.

    Raises:
        TypeError, ValueError: They cannot; the message names them and what would do.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"task_metrics={shown(names)} must be a sequence of names of tasks, {_SUCH_AS}")
    told = f"task_metrics={shown(names)}"
    checked: list[str] = []
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{told}: {shown(name)} must be a string, the name of a task, {_SUCH_AS}")
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"{told}: {shown(name)} must have 1 to {LONGEST_NAME} printable characters, {_SUCH_AS}"
            )
        if name == OTHER:
            raise ValueError(f"{told}: {OTHER!r} is what all other tasks are counted as: leave it out")
        if name in checked:
            raise ValueError(f"{told}: {shown(name)} is there twice: name each task once")
        checked.append(name)
    if not checked:
        raise ValueError(f"{told} is empty: name the tasks to count, {_SUCH_AS}, or pass None")
    if len(checked) > MOST_TASKS:
        raise ValueError(
            f"{told} has {len(checked)} names: pass at most {MOST_TASKS}; all others are counted as {OTHER!r}"
        )
    return tuple(checked)
