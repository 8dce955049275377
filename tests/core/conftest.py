"""Fixtures of the core's tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from prodpool.shutdown import phases
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
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
def switching() -> Iterator[None]:
    """Switch threads a thousand times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)
