"""Fixtures of the tests of stopping."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prodpool.shutdown import phases
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE, ThreadRunner
from tests.support import MakePool


@pytest.fixture(autouse=True)
def exact_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a stop wait for its own report, however late a busy machine lets that come."""
    monkeypatch.setattr(phases, "REPORT_GRACE", PATIENCE)


@pytest.fixture
def hold(make_pool: MakePool) -> Iterator[BlockingTask]:
    """Return a task that runs until it is let go; at the latest before the pools are stopped."""
    held = BlockingTask()
    yield held
    held.release()


@pytest.fixture
def crew() -> Iterator[ThreadRunner]:
    """Return threads that each do one thing, and wait for them in the end."""
    crew = ThreadRunner()
    yield crew
    crew.join()
