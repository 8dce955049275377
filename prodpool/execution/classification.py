"""Which result the outcome of a task counts as."""

from __future__ import annotations

from prodpool.config.exception_classes import CANCELLED_ERRORS, ExceptionClasses
from prodpool.errors import stands_for
from prodpool.task.outcomes import Result


class ResultClassifier:
    """Sorts the outcomes of one pool's tasks.

    A class matches as in an ``except`` clause. What stands in for an exception that could not leave its
    worker process counts as what it stands for.

    Args:
        panics: The classes that are bugs. A bare ``BaseException`` that is not expected is one in any case.
        expected: The classes that are part of the business; they are asked first.
    """

    def __init__(self, *, panics: ExceptionClasses, expected: ExceptionClasses) -> None:
        self._rules = (
            (Result.EXPECTED, expected),
            (Result.CANCELLED, CANCELLED_ERRORS),
            (Result.PANIC, panics),
        )

    def result_of(self, error: BaseException | None) -> Result:
        """Return the result of a task that raised ``error``, or returned if that is None."""
        if error is None:
            return Result.OK
        for result, classes in self._rules:
            if _is_one_of(error, classes):
                return result
        if stands_for(error, (BaseException,)) and not stands_for(error, (Exception,)):
            return Result.PANIC
        return Result.ERROR if issubclass(type(error), Exception) else Result.PANIC


def _is_one_of(error: BaseException, classes: ExceptionClasses) -> bool:
    # `isinstance` may call the exception's own code, which may raise.
    bases = type.mro(type(error))
    return any(each is base for each in classes for base in bases) or stands_for(error, classes)
