"""Workers that were started and lost: each is counted once, by cause, and the log says how it ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import loky
import pytest
from prometheus_client import CollectorRegistry

from prodpool import TaskTimeoutError, WorkerLostError
from prodpool.testing import flush_telemetry
from tests.backends import work
from tests.backends.conftest import PATIENCE, Held, MakePool
from tests.helpers.waiting import until

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
each = pytest.mark.parametrize(
    "kind", ["fork", *(pytest.param(kind, marks=pytest.mark.once) for kind in ("forkserver", "loky"))],
    indirect=True,
)  # fmt: skip
only_fork = pytest.mark.parametrize("kind", ["fork"], indirect=True)
CAUSES = ("signal", "exit", "start", "backend")


def counts(registry: CollectorRegistry, pool: str = "test_1") -> tuple[float | None, dict[str, float]]:
    """Return how many workers were started, and how many were lost by cause, without those that are none."""
    values = {
        cause: registry.get_sample_value("workerpool_workers_lost_total", {"pool": pool, "cause": cause})
        for cause in CAUSES
    }
    lost = {cause: value for cause, value in values.items() if value}
    return registry.get_sample_value("workerpool_workers_started_total", {"pool": pool}), lost


@each
@pytest.mark.parametrize(
    ("call", "cause", "how"),
    [
        ((work.kill_itself, signal.SIGKILL), "signal", {"signal": "SIGKILL"}),
        ((work.exit_with, 3), "exit", {"exit_status": 3}),
        ((work.exit_with, 0), "exit", {"exit_status": 0}),
    ],
    ids=["signal", "status", "status 0"],
)
def test_a_task_that_takes_its_worker_down(
    make_pool: MakePool,
    registry: CollectorRegistry,
    call: tuple[Any, ...],
    cause: str,
    how: dict[str, object],
) -> None:
    """Who reads the error finds the loss counted; the log says the process, how it ended and what it ran."""
    pool = make_pool(1)
    pid = pool.submit(work.pid).result(PATIENCE)
    with pytest.raises(WorkerLostError):
        pool.options(task="deadly").submit(*call).result(PATIENCE)
    assert counts(registry)[1] == {cause: 1}
    pool.submit(work.pid).result(PATIENCE)
    assert counts(registry) == (2, {cause: 1})
    assert make_pool.logs.wait_for("pool.worker_lost") == {
        "event": "pool.worker_lost",
        "log_level": "warning",
        "pool": pool.name,
        "cause": cause,
        "pid": pid,
        "task": "deadly",
        **how,
    }


@only_fork
def test_the_stack_of_a_task_whose_worker_is_gone(make_pool: MakePool) -> None:
    """It is lost: the line has the error in its place, and no frame of the pool's own threads."""
    pool = make_pool(1)
    error = pool.submit(work.kill_itself, signal.SIGKILL).exception(PATIENCE)
    stack = make_pool.logs.wait_for("task.panic")["stack"]
    assert stack == f"prodpool.errors.WorkerLostError: {error}"
    assert "was killed by SIGKILL" in stack


@only_fork
def test_a_lost_worker_of_another_pool(make_pool: MakePool) -> None:
    """A task that passes on the error of another pool fails with its own stack, as with any exception."""
    pool = make_pool(1)
    pool.submit(work.raise_worker_lost).exception(PATIENCE)
    assert "in raise_worker_lost" in make_pool.logs.wait_for("task.error")["stack"]


@each
def test_a_worker_that_dies_idle(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A process that is killed while it has nothing to do is counted and logged without any task."""
    pool = make_pool(1)
    pid = pool.submit(work.pid).result(PATIENCE)
    os.kill(pid, signal.SIGTERM)
    line = make_pool.logs.wait_for("pool.worker_lost")
    assert (line["cause"], line["signal"], line["pid"]) == ("signal", "SIGTERM", pid)
    assert "task" not in line
    assert pool.submit(work.pid).result(PATIENCE) != pid
    assert counts(registry) == (2, {"signal": 1})
    assert flush_telemetry(pool)
    assert len(make_pool.logs.named("pool.worker_lost")) == 1


def _initialized(initializer: Callable[..., object], *args: Any) -> Callable[[str], Callable[[int], Any]]:
    context = multiprocessing.get_context("fork")
    return lambda _: lambda workers: ProcessPoolExecutor(workers, context, initializer, args)


@only_fork
def test_workers_that_do_not_come_up(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Each start in vain is one of its own; the line says what the initializer has raised."""
    pool = make_pool(1, factory_of=_initialized(work.boom))
    assert isinstance(pool.submit(int).exception(PATIENCE), WorkerLostError)
    assert counts(registry) == (5, {"start": 5})
    lines = [make_pool.logs.wait_for("pool.worker_lost", count=5), *make_pool.logs.named("pool.worker_lost")]
    assert {line["cause"] for line in lines} == {"start"}
    assert all("the initializer has failed: TaskError" in line["error"] for line in lines)
    assert not any({"signal", "exit_status", "task"} & line.keys() for line in lines)


@only_fork
def test_workers_that_do_not_come_up_without_messages(make_pool: MakePool) -> None:
    """With log_messages=False no line has the text of what the initializer has raised."""
    pool = make_pool(1, log_messages=False, factory_of=_initialized(work.boom))
    assert "TaskError" in str(pool.submit(int).exception(PATIENCE))
    lost, broken = (make_pool.logs.wait_for(event) for event in ("pool.worker_lost", "pool.backend_broken"))
    assert lost["error"] == broken["error"] == "BrokenProcessPool"


@only_fork
def test_a_worker_that_is_killed_as_it_starts(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """It has not begun any task; the line says which signal that was all the same."""
    pool = make_pool(1, factory_of=_initialized(work.kill_itself, signal.SIGKILL))
    pool.submit(int)
    line = make_pool.logs.wait_for("pool.worker_lost")
    assert (line["cause"], line["signal"]) == ("start", "SIGKILL")
    assert isinstance(line["pid"], int)
    pool.stop(0.0)
    started, lost = counts(registry)
    assert started
    assert lost.keys() == {"start"}


@only_fork
@pytest.mark.parametrize("how", ["limit", "stop", "resize", "most tasks", "idle"])
def test_workers_that_the_pool_itself_ends(
    make_pool: MakePool, registry: CollectorRegistry, held: Held, tmp_path: Path, how: str
) -> None:
    """A time limit, a stop, a smaller size, the last of its tasks or a long idle time is no loss."""
    factories: dict[str, Callable[[str], Callable[[int], Any]]] = {
        "idle": lambda _: lambda workers: loky.ProcessPoolExecutor(workers, timeout=0.2),
        "most tasks": lambda _: (
            lambda workers: ProcessPoolExecutor(
                workers, multiprocessing.get_context("forkserver"), max_tasks_per_child=1
            )
        ),
    }
    pool = make_pool(2, factory_of=factories.get(how))
    if how == "limit":
        hung = pool.options(timeout=0.2).submit(work.hang, str(tmp_path / "hangs"))
        assert isinstance(hung.exception(PATIENCE), TaskTimeoutError)
        assert pool.submit(int).result(PATIENCE) == 0
    elif how == "stop":
        pool.submit(work.hang, str(tmp_path / "hangs"))
        until((tmp_path / "hangs").exists)
        assert len(pool.stop(0.1).abandoned) == 1
        until(lambda: pool.stats().in_flight == 0)
        assert pool.stats().abandoned == 1
    elif how == "most tasks":
        pids = {pool.submit(work.pid).result(PATIENCE) for _ in range(3)}
        assert len(pids) == 3
    else:
        both = [held.submit(pool) for _ in range(2)]
        held.wait_running(2)
        held.let_go()
        assert [future.result(PATIENCE) for future in both]
        if how == "resize":
            pool.resize(1)
        left = 0 if how == "idle" else 1
        until(lambda: len(pool._engine.dispatcher.worker_set.workers) == left)
    pool.stop(PATIENCE)
    started, lost = counts(registry)
    assert not lost
    assert started is not None
    assert started >= {"limit": 2, "stop": 1, "most tasks": 3}.get(how, 2)
    assert not make_pool.logs.named("pool.worker_lost")


@pytest.mark.parametrize("kind", ["handed"], indirect=True)
def test_another_executor_that_breaks(make_pool: MakePool, registry: CollectorRegistry, held: Held) -> None:
    """It breaks once for all the tasks that it had; its processes are not started by the pool."""
    pool = make_pool(2, factory=True)
    both = [held.submit(pool) for _ in range(2)]
    held.wait_running(2)
    # Both: the executor may not watch the second one, which it has started late, before its next result.
    for pid in held.pids():
        os.kill(pid, signal.SIGKILL)
    assert [type(future.exception(PATIENCE)) for future in both] == [WorkerLostError] * 2
    assert counts(registry) == (0, {"backend": 1})
    assert pool.submit(int).result(PATIENCE) == 0
    line = make_pool.logs.wait_for("pool.worker_lost")
    assert line["cause"] == "backend"
    assert "BrokenProcessPool" in line["error"]
    with pytest.raises(WorkerLostError):
        pool.submit(work.exit_with, 3).result(PATIENCE)
    assert counts(registry) == (0, {"backend": 2})
