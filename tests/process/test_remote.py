"""A process ends in time with a pool over worker processes that nobody has stopped, and they end with it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.process.children import LEEWAY, Ended, run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX"),
]

BACKENDS = ("fork", "forkserver", "spawn", "loky")
DRAINED = ("first", "short", "drains")
HUNG = ("hung", "never_up")
DEADLINE = 0.2


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    """Run every program to its end, two side by side, before the first test looks at one."""
    folder = tmp_path_factory.mktemp("remote")
    cases = [(backend, way) for backend in BACKENDS for way in ("unused", "idle", *DRAINED, *HUNG)]

    def to_the_end(case: tuple[str, str]) -> Ended:
        return run("remote", *case, folder=folder / "-".join(case))

    with ThreadPoolExecutor(2) as runner:
        return dict(zip(cases, runner.map(to_the_end, cases), strict=True))


def check(child: Ended) -> None:
    """Assert that it ended by itself, without a word about it, and that none of its workers is left."""
    assert (child.status, child.err, child.out[-1]) == (0, "", "ATEXIT"), child
    assert "pool.telemetry_error" not in child.events(), child
    for line in child.out:
        for worker in map(int, line.split()[1:] if line.startswith("WORKERS") else []):
            with pytest.raises(ProcessLookupError):
                os.kill(worker, 0)


@pytest.mark.parametrize("way", ["unused", "idle"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do(ended: dict[tuple[str, str], Ended], backend: str, way: str) -> None:
    """A pool that was never used, or whose workers are idle, does not hold up the end and is silent."""
    child = ended[backend, way]
    check(child)
    assert child.seconds < LEEWAY, child
    assert child.events() == (["pool.created"] if way == "idle" else [])


@pytest.mark.parametrize("way", DRAINED)
@pytest.mark.parametrize("backend", BACKENDS)
def test_drained(ended: dict[tuple[str, str], Ended], backend: str, way: str) -> None:
    """What was submitted is run, also where no process was there for it yet."""
    child = ended[backend, way]
    check(child)
    assert child.seconds < LEEWAY, child
    if way == "short":  # it may have come to its end before the exit
        assert "drained=False" not in "".join(child.out)
    else:
        assert child.events() == ["pool.created", "pool.draining", "pool.stopped"]
        assert "drained=True" in child.logged("pool.stopped")


@pytest.mark.parametrize("backend", BACKENDS)
def test_hung(ended: dict[tuple[str, str], Ended], backend: str) -> None:
    """Tasks that never end are named and their processes killed; what waits is dropped."""
    child = ended[backend, "hung"]
    check(child)
    assert child.seconds < DEADLINE + LEEWAY, child
    assert "drained=False completed=0 dropped=3 abandoned=2" in child.logged("pool.stopped")
    assert child.events().count("task.abandoned") == 2
    assert "in hang" in "".join(child.out), "the stack in the worker process"


@pytest.mark.parametrize("backend", BACKENDS)
def test_never_up(ended: dict[tuple[str, str], Ended], backend: str) -> None:
    """A process that does not get beyond its initializer is killed; its task is dropped."""
    child = ended[backend, "never_up"]
    check(child)
    assert child.seconds < DEADLINE + LEEWAY, child
    assert "drained=False completed=0 dropped=1 abandoned=0" in child.logged("pool.stopped")


def test_forgotten(tmp_path: Path) -> None:
    """Where the application ignores SIGCHLD a lost worker is noticed all the same, and the others end."""
    child = run("remote", "fork", "forgotten", folder=tmp_path / "own")
    check(child)
    (_, error, seconds), *_ = (line.split() for line in child.out if line.startswith("LOST"))
    assert error == "WorkerLostError"
    # The system is asked for ten seconds otherwise.
    assert float(seconds) < LEEWAY / 2
    assert child.seconds < LEEWAY / 2, child


@pytest.mark.parametrize("way", ["forked", "no_folder"])
def test_first_of_all(tmp_path: Path, way: str) -> None:
    """Forked workers know what was set up before the first task; `processes` needs no folder."""
    child = run("first", way, folder=tmp_path / way)
    assert (child.status, child.err) == (0, ""), child
    assert child.out == ["0", "1", "2", "3"]
