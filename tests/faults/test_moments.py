"""Real signals at random moments, whose handlers raise, in pools that are used for everything."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import children

# Pools that are interrupted, and processes that are ended by SIGTERM.
POOLS = 300 if children.ALL else 48
EXITS = 42 if children.ALL else 6
LIMIT = 900.0 if children.ALL else 100.0
# Seconds for one process, drain included.
EXIT_LIMIT = 120.0


@pytest.fixture
def seed() -> int:
    """Choose a seed and print it: a run is repeated by hand with ``--seed``."""
    seed = random.randrange(1_000_000)  # noqa: S311
    print("seed", seed)  # noqa: T201  # pytest shows it when the test fails
    return seed


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 20)
def test_interrupted_at_a_random_moment(seed: int) -> None:
    """None of many pools hangs, refuses without a reason or miscounts after one raising signal."""
    children.check(children.run("moments", str(POOLS), "--seed", str(seed), seconds=LIMIT))


@pytest.mark.slow
@pytest.mark.timeout(LIMIT + 20)
def test_sigterm_at_a_random_moment(seed: int) -> None:
    """The guide's recipe ends the process in time and with status 0, whatever the main thread was doing."""

    def end(number: int) -> children.Told:
        return children.run("moments", "exit", "--seed", str(seed + number), seconds=EXIT_LIMIT)

    with ThreadPoolExecutor(2) as two:
        ended = list(two.map(end, range(EXITS)))
    wrong = {seed + n: (told.status, told.err[-800:]) for n, told in enumerate(ended) if told.status != 0}
    assert not wrong
    assert all({"finished": True} in told.lines for told in ended)
