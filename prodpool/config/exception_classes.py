"""Which exceptions of a task are bugs, and which belong to the business."""

from __future__ import annotations

import asyncio
import concurrent.futures

from prodpool.text import shown

ExceptionClasses = tuple[type[BaseException], ...]

# What a mistake in the code or a broken deployment raises, and hardly ever the data or a dependency.
DEFAULT_PANICS: ExceptionClasses = (
    NameError,
    AttributeError,
    ImportError,
    NotImplementedError,
    SyntaxError,
    RecursionError,
    SystemError,
)
# asyncio's is a bare BaseException, the other one is an Exception.
CANCELLED_ERRORS: ExceptionClasses = (asyncio.CancelledError, concurrent.futures.CancelledError)


def check_exception_classes(panics: object, expected: object) -> None:
    """Check the classes that a pool counts as ``panic`` and those that it counts as ``expected``.

    Raises:
        TypeError, ValueError: They cannot be that; the message names the class and what would do.
    """
    of_panics = _check_tuple("panics", panics, "NameError")
    of_expected = _check_tuple("expected", expected, "CardDeclined")
    for each in of_panics:
        # Of the default ones any may be expected.
        if panics is not DEFAULT_PANICS and any(each is other for other in of_expected):
            raise ValueError(
                f"panics={shown(panics)}, expected={shown(expected)}: {_name(each)} is in both; leave it "
                "out of one"
            )
        if issubclass(each, CANCELLED_ERRORS):
            raise ValueError(  # noqa: TRY004  # it is a class as asked for
                f"panics={shown(panics)}: a task that raises {_name(each)} counts as cancelled; leave it out"
            )


def _check_tuple(argument: str, value: object, example: str) -> ExceptionClasses:
    if not isinstance(value, tuple) or not all(
        isinstance(each, type) and issubclass(each, BaseException) for each in value
    ):
        raise TypeError(
            f"{argument}={shown(value)} must be a tuple of exception classes, such as ({example},)"
        )
    return value


def _name(kind: type[BaseException]) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
