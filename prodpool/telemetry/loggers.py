"""Where log lines go: the application's logger, structlog's or the standard library's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog


class LoggerResolver:
    """Finds the logger: the one passed in, structlog's if the application configured it, else stdlib's.

    Looked at anew for each line, since an application may well configure structlog after it has built
    its pools. Unconfigured, ``structlog.get_logger()`` would print to standard output; a library must not.
    """

    def __init__(self, given: Any) -> None:
        of_stdlib = isinstance(given, logging.Logger | logging.LoggerAdapter)
        self._given = StdlibLogger(given) if of_stdlib else given
        self._stdlib: Any = None
        self._structlog: Any = None

    def __call__(self) -> Any:
        """Return the logger to use now, in a thread where no event loop runs."""
        if self._given is not None:
            self._given = _synchronous(self._given)
            return self._given
        if structlog.is_configured():
            self._structlog = _synchronous(self._structlog or structlog.get_logger("prodpool"))
            return self._structlog
        if self._stdlib is None:
            logger = logging.getLogger("prodpool")
            if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                logger.addHandler(logging.NullHandler())
            self._stdlib = StdlibLogger(logger)
        return self._stdlib


def _synchronous(logger: Any) -> Any:
    """Return the synchronous logger in structlog's AsyncBoundLogger: no loop would ever write the lines."""
    if not type(logger).__module__.startswith("structlog."):
        return logger
    try:
        bound = logger.bind()
    except RuntimeError:
        # One can only be made where a loop runs.
        with asyncio.Runner() as runner:
            runner.get_loop()
            bound = runner.run(_bind(logger))
    return bound.sync_bl if isinstance(bound, structlog.stdlib.AsyncBoundLogger) else logger


async def _bind(logger: Any) -> Any:
    return logger.bind()


class StdlibLogger:
    """Writes events to a logger of the standard library, as ``event key=value ...`` with the stack below.

    All records of an event have one template, by which error trackers group them. The fields are attributes
    of the record as well, for formatters and filters.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any]) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """Write at level DEBUG."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: object) -> None:
        """Write at level INFO."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """Write at level WARNING."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        """Write at level ERROR."""
        self._log(logging.ERROR, event, fields)

    def critical(self, event: str, **fields: object) -> None:
        """Write at level CRITICAL."""
        self._log(logging.CRITICAL, event, fields)

    def _log(self, level: int, event: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        line = " ".join(f"{key}={value}" for key, value in fields.items() if key != "stack")
        stack = fields.get("stack")
        # The event is ours and has no "%"; a task's name may have one, and must not be taken for a format.
        template, args = (f"{event} %s", (line,)) if stack is None else (f"{event} %s\n%s", (line, stack))
        logger: Any = self._logger
        options: dict[str, Any] = {"extra": fields}
        if isinstance(logger, logging.LoggerAdapter):
            # It would replace our fields by its own.
            template, its_own = logger.process(template, dict(options))
            options = {**its_own, "extra": {**fields, **(its_own.get("extra") or {})}}
            logger = logger.logger
        try:
            logger.log(level, template, *args, **options)
        except KeyError:
            # The application's record factory makes an attribute of such a name: then ours are in the text.
            logger.log(level, template, *args, **{**options, "extra": None})


@contextmanager
def silent_if_closed() -> Iterator[None]:
    """Write lines of the end of a process where the log is open still; a closed one is nothing to report.

    A test runner's streams are closed by then; a line for them is not an error.
    """
    before, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        yield
    except ValueError as error:
        if "closed file" not in str(error):
            raise
    finally:
        logging.raiseExceptions = before
