"""Fixtures of the tests of what is seen of a pool."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.helpers.tasks import BlockingTask
from tests.support import MakePool


@pytest.fixture
def gate(make_pool: MakePool) -> Iterator[BlockingTask]:
    """Return a gate that opens at the end of the test at the latest, before its pools are stopped."""
    gate = BlockingTask()
    yield gate
    gate.release()


@pytest.fixture
def reports() -> Iterator[list[str]]:
    """Return the errors that the library's own logger is told of."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    logger, listener = logging.getLogger("prodpool"), Listener(logging.ERROR)
    logger.addHandler(listener)
    yield heard
    logger.removeHandler(listener)
