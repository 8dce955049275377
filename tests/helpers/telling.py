"""Tasks that put a secret into the texts of their exceptions, and a check that a log line has none of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.helpers.tasks import TaskError

# Put together at run time, so that no line of source in a stack holds it.
SECRET = "hunter"[:6] + str(2)


def throw(error: BaseException) -> None:
    raise error


def chain(secret: str) -> None:
    """Raise an exception with a cause, and a note."""
    try:
        try:
            throw(TaskError(secret))
        except TaskError:
            throw(LookupError(f"first\n{secret}"))
    except LookupError as error:
        error.add_note(secret)
        raise ValueError(secret) from error


def group(secret: str) -> None:
    """Raise several at once."""
    try:
        throw(TaskError(secret))
    except TaskError as error:
        raise ExceptionGroup(secret, [error, SyntaxError(secret, (secret, 1, 1, secret))]) from None


def pretend(secret: str) -> None:
    """Raise one whose text looks like a stack."""
    throw(TaskError(f"Traceback (most recent call last):\n    {secret}\nValueError\n  {secret}"))


TELLING = [chain, group, pretend]


def check_untold(line: Mapping[str, object], fn: Callable[..., object], error: BaseException) -> None:
    """Assert that the line of a task has frames, source and class of what it raised, and no text of it."""
    assert SECRET not in repr(line)
    assert "error_message" not in line
    stack = str(line["stack"]).splitlines()
    assert any(f"in {fn.__name__}" in each for each in stack), stack
    assert any("raise " in each for each in stack), stack
    assert type(error).__name__ in {each.strip().rpartition(".")[2] for each in stack}
