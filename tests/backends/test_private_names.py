"""The private names of backends that the pool relies on, each where docs/decisions.md says (D3, D14, D15)."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import CancelledError, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import loky
import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from prodpool.workers.base import NotTakenError
from prodpool.workers.kinds import capabilities
from prodpool.workers.processes import MENDED
from tests.api.gates import until
from tests.backends import work
from tests.backends.conftest import PATIENCE, dask

pytestmark = pytest.mark.timeout(120)


def name_after(letter: str) -> None:
    os.environ["PRODPOOL_TEST"] = letter


def named() -> str:
    return os.environ.get("PRODPOOL_TEST", "")


def _process_pool(workers: int, **options: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"), **options)


@pytest.mark.parametrize("build", [_process_pool, loky.ProcessPoolExecutor], ids=["stdlib", "loky"])
def test_another_like_it(build: Any) -> None:
    """The number of workers is found, the processes are, and another executor is set up alike."""
    with build(3, initializer=name_after, initargs=("x",)) as backend:
        abilities = capabilities(backend)
        assert abilities.max_workers == 3
        assert abilities.processes is not None
        assert abilities.single is not None
        pid = backend.submit(work.pid).result(PATIENCE)
        assert pid in [process.pid for process in abilities.processes(backend)]
        with abilities.single(backend) as single:
            assert capabilities(single).max_workers == 1
            assert single.submit(named).result(PATIENCE) == "x"


def test_dask_says_how_many() -> None:
    """An executor of a dask client is known by its type, and says how many tasks it runs at once."""
    abilities = capabilities(dask(2))
    assert (abilities.kind, abilities.max_workers) == ("dask", 2)


def test_what_an_executor_of_dask_was_given_reaches_the_client(tmp_path: Path) -> None:
    """Its options go along, a shutdown gives up what is out, and what comes after it is refused."""
    mark, go = tmp_path / "runs", tmp_path / "go"
    executor: Any = dask(2)._client.get_executor(pure=False, retries=1)
    assert executor._kwargs == {"pure": False, "retries": 1}
    submit = capabilities(executor).submit
    gone = submit(executor, work.hold, str(mark), str(go))
    until(mark.exists, PATIENCE)
    # It runs, so that these wait for each other for a moment before they go.
    late = [submit(executor, abs, -number) for number in range(3)]
    executor.shutdown(wait=False)
    with pytest.raises(CancelledError):
        gone.result(PATIENCE)
    for future in late:
        with pytest.raises((CancelledError, NotTakenError)):
            future.result(PATIENCE)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        submit(executor, abs, -1)
    go.touch()


@pytest.mark.skipif(MENDED, reason="this Python replaces such workers as it should")
def test_max_tasks_per_child(registry: CollectorRegistry) -> None:
    """What is known to hang is refused, with the way out."""
    with (
        _process_pool(1, max_tasks_per_child=2) as backend,
        pytest.raises(ValueError, match=r"max_tasks_per_child=2.* 115634.*leave that out"),
    ):
        InstrumentedPool(backend, name="test", registry=registry)
