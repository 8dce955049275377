"""The private names of backends that the pool relies on, each where docs/decisions says (D3, D14, D15)."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import loky
import pytest
from prometheus_client import CollectorRegistry

from prodpool import InstrumentedPool
from prodpool.workers.backends import detect_backend, is_unstarted
from prodpool.workers.base import NotTakenError
from prodpool.workers.handoff.dask import CancelledThereError
from prodpool.workers.process_pools import REPLACES_DEAD_WORKERS
from tests.backends import work
from tests.backends.conftest import PATIENCE, dask, handed
from tests.helpers.waiting import until

pytestmark = pytest.mark.timeout(120)


def name_after(letter: str) -> None:
    os.environ["PRODPOOL_TEST"] = letter


def named() -> str:
    return os.environ.get("PRODPOOL_TEST", "")


def _process_pool(workers: int, **options: Any) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"), **options)


both = pytest.mark.parametrize("build", [_process_pool, loky.ProcessPoolExecutor], ids=["stdlib", "loky"])


@both
def test_a_recipe(build: Any, registry: CollectorRegistry) -> None:
    """The number of workers is found, and how one is made; the executor itself stays unstarted."""
    with build(3, initializer=name_after, initargs=("x",)) as backend:
        abilities = detect_backend(backend)
        assert abilities.max_workers == 3
        template = abilities.template
        assert template is not None
        assert (template.initializer, template.initargs, template.most_tasks) == (name_after, ("x",), None)
        assert callable(template.context.Process)
        assert not template.forks
        with InstrumentedPool(backend, name="test", registry=registry) as pool:
            assert pool.stats().workers == 3
            assert pool.submit(named).result(PATIENCE) == "x"
            assert not backend._processes


def test_what_else_is_in_a_recipe() -> None:
    """The standard library's bound of tasks, and loky's patience and environment, go along."""
    with _process_pool(1, max_tasks_per_child=7) as backend:
        assert getattr(detect_backend(backend).template, "most_tasks", None) == 7
    with loky.ProcessPoolExecutor(1, timeout=3.0, env={"PRODPOOL_TEST": "y"}) as backend:
        template = detect_backend(backend).template
        assert template is not None
        assert (template.linger, template.options) == (3.0, {"env": {"PRODPOOL_TEST": "y"}})
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as backend:
        assert getattr(detect_backend(backend).template, "forks", None) is True


def test_an_environment_of_loky(registry: CollectorRegistry) -> None:
    """What the executor was given for its workers, they have."""
    backend = loky.ProcessPoolExecutor(1, env={"PRODPOOL_TEST": "y"})
    with InstrumentedPool(backend, name="test", registry=registry) as pool:
        assert pool.submit(named).result(PATIENCE) == "y"


def test_a_reusable_executor_of_loky(registry: CollectorRegistry) -> None:
    """It is a recipe like any other."""
    with InstrumentedPool(loky.get_reusable_executor(2), name="test", registry=registry) as pool:
        assert detect_backend(pool._engine.backend).template is not None
        assert pool.submit(abs, -1).result(PATIENCE) == 1


@both
def test_no_recipe(build: Any) -> None:
    """What others use as well, or what has a ``submit`` of its own, is handed tasks."""
    with build(2) as backend:
        abilities = detect_backend(backend, own=False)
        assert abilities.template is None
        assert abilities.processes is not None
        pid = backend.submit(work.pid).result(PATIENCE)
        assert pid in [process.pid for process in abilities.processes(backend)]
        backend.submit = partial(backend.submit)
        assert detect_backend(backend).template is None
    with handed(1) as backend:
        assert detect_backend(backend).template is None


SPAWN = multiprocessing.get_context("spawn")


@pytest.mark.parametrize("build", [ThreadPoolExecutor, partial(ProcessPoolExecutor, mp_context=SPAWN)])
def test_whether_an_executor_has_begun(build: Any) -> None:
    """An executor of the standard library has no thread before its first task, and says so from then on."""
    with build(1) as executor:
        assert is_unstarted(executor)
        executor.submit(abs, -1).result(PATIENCE)
        assert not is_unstarted(executor)


def test_dask_says_how_many() -> None:
    """An executor of a dask client is known by its type, and says how many tasks it runs at once."""
    abilities = detect_backend(dask(2))
    assert (abilities.kind, abilities.max_workers) == ("dask", 2)


def test_what_an_executor_of_dask_was_given_reaches_the_client(tmp_path: Path) -> None:
    """Its options go along, a shutdown gives up what is out, and what comes after it is refused."""
    mark, go = tmp_path / "runs", tmp_path / "go"
    executor: Any = dask(2)._client.get_executor(pure=False, retries=1)
    assert executor._kwargs == {"pure": False, "retries": 1}
    submit = detect_backend(executor).submit
    gone = submit(executor, work.hold, str(mark), str(go))
    try:
        until(mark.exists, PATIENCE)
        # It runs, so that these wait for each other for a moment before they go.
        late = [submit(executor, abs, -number) for number in range(3)]
        executor.shutdown(wait=False)
        # The client goes on.
        with pytest.raises(CancelledThereError):
            gone.result(PATIENCE)
        for future in late:
            with pytest.raises((CancelledThereError, CancelledError, NotTakenError)):
                future.result(PATIENCE)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            submit(executor, abs, -1)
    finally:
        go.touch()


@pytest.mark.skipif(REPLACES_DEAD_WORKERS, reason="this Python replaces such workers as it should")
def test_max_tasks_per_child(registry: CollectorRegistry) -> None:
    """What is known to hang is refused, with the way out, where the executor's own processes are used."""
    with _process_pool(1, max_tasks_per_child=2) as backend:
        with pytest.raises(ValueError, match=r"max_tasks_per_child=2.* 115634.*leave that out"):
            InstrumentedPool(backend, name="test", own_backend=False, registry=registry)
        with InstrumentedPool(backend, name="test", registry=registry) as pool:
            assert pool.submit(abs, -1).result(PATIENCE) == 1
