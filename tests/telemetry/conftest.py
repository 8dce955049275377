"""Fixtures of the tests of what is seen of a pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.gates import Gate
from tests.support import MakePool


@pytest.fixture
def gate(make_pool: MakePool) -> Iterator[Gate]:
    """Return a gate that opens at the end of the test at the latest, before its pools are stopped."""
    gate = Gate()
    yield gate
    gate.open()
