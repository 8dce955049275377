"""The main thread is interrupted once, at each point at which CPython may do so, in everything it can ask."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults import children
from tests.faults.scenarios import GROUPS

THREADS = [name for name in GROUPS if not name.startswith(("remote_", "process_"))]
PROCESSES = [name for name in GROUPS if name.startswith("remote_")]
# Seconds for a group, on a machine that has other things to do.
LIMIT = 1500.0 if children.ALL else 120.0
# Groups that run side by side: they mostly wait.
BESIDE = 3


def interrupted(groups: list[str], *sample: str) -> None:
    # What a broken pool costs is time, of which there is none beyond the first few.
    def run(group: str) -> children.Told:
        return children.run("interrupt", group, *sample, "--most", "3", seconds=LIMIT)

    with ThreadPoolExecutor(BESIDE) as side_by_side:
        told = list(side_by_side.map(run, groups))
    broken = [line for each in told for line in each.broken()]
    assert not broken, "\n".join([f"{len(broken)} broken", *broken])
    for each in told:
        children.check(each)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_threads() -> None:
    """After an interrupt the law holds, nothing waits for ever, the pool works, stops and lets it exit."""
    interrupted(THREADS, *children.sample(8))


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_processes() -> None:
    """The same over worker processes that the pool has started: some points of each scenario."""
    interrupted(PROCESSES, "--points", "12" if children.ALL else "2")


# 7 to 12 minutes by itself, since each point starts processes: tried on one CPython only.
@pytest.mark.slow
@pytest.mark.once
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.skipif(not children.ALL, reason="CI tries all points, and so does PRODPOOL_FAULTS=all")
def test_every_point_over_processes() -> None:
    """The same at every point."""
    interrupted(PROCESSES)


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
def test_process_pool() -> None:
    """The same over an executor that was handed to the pool and cannot be built anew."""
    interrupted(["process_pool"], *children.sample(1))
