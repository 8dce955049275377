"""What CPython asks of a future, asked of the futures of a pool."""

from __future__ import annotations

import logging
import sys
import types
import unittest
from collections.abc import Iterator

import pytest

from tests.cpython import suite
from tests.cpython.driven import Drivers
from tests.cpython.exclusions import FUTURES_EXCLUDED

CASES = {suite.case_name(case): case for case in suite.future_cases(suite.load())}


class _ToStderr(logging.Handler):
    """What logging's last resort does for the stdlib's logger: to whatever stderr is at the time."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record))


@pytest.fixture
def pool_futures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the case find futures of a pool wherever it would make one of the stdlib's."""
    module: types.ModuleType = sys.modules[type(CASES[request.getfixturevalue("name")]).__module__]
    drivers = Drivers()
    for name, value in drivers.names().items():
        if name in vars(module):
            monkeypatch.setattr(module, name, value)
    handler = _ToStderr()
    logging.getLogger("prodpool").addHandler(handler)
    yield
    logging.getLogger("prodpool").removeHandler(handler)
    drivers.close()


@pytest.mark.usefixtures("pool_futures")
@pytest.mark.parametrize("name", [name for name in CASES if name not in FUTURES_EXCLUDED])
def test_case(name: str) -> None:
    """A pool's future passes this case of CPython's."""
    result = unittest.TestResult()
    CASES[name].run(result)
    for _, reason in result.skipped:
        pytest.skip(reason)
    assert result.testsRun == 1
    assert not [text for _, text in result.errors + result.failures]


def test_exclusions_exist() -> None:
    """A case that is left out is one of the suite's."""
    assert not CASES or FUTURES_EXCLUDED.keys() <= CASES.keys()
