"""A pytest plugin with the fixture ``instrumented_pool``.

It is not loaded by itself: ``pytest_plugins = ["prodpool.testing.pytest_plugin"]`` in the ``conftest.py`` at
the root of the tests loads it, or ``-p prodpool.testing.pytest_plugin``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prodpool.testing.pool_factory import PoolFactory


@pytest.fixture
def instrumented_pool() -> Iterator[PoolFactory]:
    """Return a `PoolFactory`, which builds pools. At the end they are stopped; a leak fails the test."""
    factory = PoolFactory()
    yield factory
    leaks = factory.stop_all()
    if leaks:
        pytest.fail("\n\n".join(leaks), pytrace=False)
