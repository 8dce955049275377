"""A hung task keeps nothing else from ending as it should: process pools, children of multiprocessing."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.process.children import TOO_LONG, Ended, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX"),
]

PROCESS_POOLS = [("beside", method) for method in ("fork", "spawn")]
CHILDREN = [("parent", method, status) for method in ("fork", "spawn", "forkserver") for status in ("0", "3")]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], tuple[Ended, Path]]:
    """Run every program to its end, two side by side, before the first test looks at one."""
    folder = tmp_path_factory.mktemp("beside")

    def to_the_end(case: tuple[str, ...]) -> tuple[Ended, Path]:
        own = folder / "-".join(case)
        child = run(*case, folder=own)
        # A busy machine may take more than the second that finalization has.
        for number in range(2):
            if not child.err.startswith("Timeout (0:00:01)!"):
                break
            own = folder / f"{'-'.join(case)}-again-{number}"
            child = run(*case, folder=own)
        return child, own

    cases = [*PROCESS_POOLS, *CHILDREN]
    with ThreadPoolExecutor(2) as runner:
        return dict(zip(cases, runner.map(to_the_end, cases), strict=True))


@pytest.mark.parametrize("case", PROCESS_POOLS, ids="-".join)
def test_process_pool(ended: dict[tuple[str, ...], tuple[Ended, Path]], case: tuple[str, ...]) -> None:
    """A process pool from before is wound up by its own exit hook; its worker does not outlive us."""
    child, _ = ended[case]
    assert child.status == 0, child
    assert child.seconds < TOO_LONG / 4, child
    assert child.err == ""
    (worker,) = (int(line.split()[1]) for line in child.out if line.startswith("WORKER"))
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.parametrize("case", CHILDREN, ids="-".join)
def test_child_of_multiprocessing(
    ended: dict[tuple[str, ...], tuple[Ended, Path]], case: tuple[str, ...]
) -> None:
    """Such a child, which joins its threads itself, ends with the status it chose and without a word."""
    child, folder = ended[case]
    _, method, status = case
    assert child.status == int(status), child
    assert child.seconds < TOO_LONG / 4, child
    assert child.err == ""
    # A spawned child is a whole interpreter; multiprocessing runs atexit in forked ones from 3.13 on.
    if method == "spawn" or sys.version_info >= (3, 13):
        assert (folder / "atexit").exists()
