"""Results and seconds of running by task name, for the names that a pool was given."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import PoolFullError, Result
from prodpool.testing import ManualClock
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool
from tests.telemetry.scraping import series, value

FINISHED, SECONDS = "workerpool_tasks_finished_total", "workerpool_tasks_run_seconds_total"


def finished(registry: CollectorRegistry, pool: str = "test") -> dict[tuple[str, str], float]:
    """Return how many tasks of each name ended in each way, where any did."""
    return {each: count for each, count in all_finished(registry, pool).items() if count}


def all_finished(registry: CollectorRegistry, pool: str) -> dict[tuple[str, str], float]:
    return {
        (dict(labels)["task"], dict(labels)["result"]): count
        for (name, labels), count in series(registry).items()
        if name == FINISHED and ("pool", pool) in labels
    }


def seconds(registry: CollectorRegistry, task: str) -> float:
    return value(registry, SECONDS, task=task)


def test_without_names_there_is_no_series(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A pool that was given none exports nothing by name, and its tasks take the short way."""
    pool = make_pool()
    pool.submit(len, "").result(PATIENCE)
    assert not any(name in {FINISHED, SECONDS} for name, _ in series(registry))
    assert not pool._engine.settlement.every_task


def test_all_are_there_from_the_start(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Every name and `other` has its series before the first task, and no task adds one."""
    pool = make_pool(task_metrics=("len", "resize"))
    expected = {(task, result.value): 0.0 for task in ("len", "resize", "other") for result in Result}
    assert all_finished(registry, "test") == expected
    pool.options(task="new").submit(len, "").result(PATIENCE)
    assert all_finished(registry, "test") == expected | {("other", "ok"): 1.0}


def test_by_name_and_result(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A task counts under its name, its function's or its option's, and any other name under `other`."""
    clock = ManualClock()
    pool = make_pool(1, clock=clock, task_metrics=["divmod", "send", "ManualClock.advance"])
    pool.submit(clock.advance, 0.25).result(PATIENCE)
    pool.submit(clock.advance, 7.5).result(PATIENCE)
    pool.options(task="send").submit(clock.advance, 1.5).result(PATIENCE)
    pool.submit(divmod, 1, 1).result(PATIENCE)
    pool.submit(divmod, 1, 0).exception(PATIENCE)
    pool.submit(exit).exception(PATIENCE)
    pool.options(task="else").submit(clock.advance, 2.0).result(PATIENCE)
    assert finished(registry) == {
        ("ManualClock.advance", "ok"): 2,
        ("send", "ok"): 1,
        ("divmod", "ok"): 1,
        ("divmod", "error"): 1,
        ("other", "panic"): 1,
        ("other", "ok"): 1,
    }
    ran = {task: seconds(registry, task) for task in ("ManualClock.advance", "send", "divmod", "other")}
    assert ran == {"ManualClock.advance": 7.75, "send": 1.5, "divmod": 0.0, "other": 2.0}


def test_what_never_ran_is_not_counted(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Refused and cancelled tasks have not finished."""
    gate = BlockingTask()
    pool = make_pool(1, queue_capacity=1, task_metrics=["len"])
    pool.submit(gate)
    gate.wait_started()
    waiting = pool.submit(len, "")
    with pytest.raises(PoolFullError):
        pool.submit(len, "")
    waiting.cancel()
    gate.release()
    pool.stop()
    assert finished(registry) == {("other", "ok"): 1}


@pytest.mark.parametrize("overload", ["reject", "caller_runs"])
def test_wherever_it_runs(make_pool: MakePool, registry: CollectorRegistry, overload: Any) -> None:
    """A task counts that its submitter runs, and one that another task runs while it waits for it."""
    pool = make_pool(1, queue_capacity=1, overload=overload, task_metrics=["len"])

    def outer() -> int:
        inner = pool.submit(len, "ab")
        if overload == "caller_runs":
            pool.submit(len, "cd")
        return inner.result(PATIENCE)

    assert pool.submit(outer).result(PATIENCE) == 2
    pool.stop()
    inside = 2 if overload == "caller_runs" else 1
    assert finished(registry) == {("len", "ok"): inside, ("other", "ok"): 1}


def test_a_ready_made_pool(registry: CollectorRegistry) -> None:
    """The factories take the option as well."""
    with prodpool.threads(name="test", max_workers=1, registry=registry, task_metrics=("len",)) as pool:
        pool.submit(len, "").result(PATIENCE)
    assert finished(registry) == {("len", "ok"): 1}


def test_pools_of_one_name(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Pools of one name whose lists differ are added up by label, also once one is gone."""
    for names in (["len", "abs"], ["abs", "int"], None):
        pool = make_pool(1, name="mail", task_metrics=names)
        for future in (pool.submit(len, ""), pool.submit(abs, 1), pool.submit(int, 1)):
            future.result(PATIENCE)
        pool.stop()
    assert finished(registry, "mail") == {
        ("len", "ok"): 1,
        ("abs", "ok"): 2,
        ("int", "ok"): 1,
        ("other", "ok"): 2,
    }


def test_each_scrape_adds_up(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """In any scrape the tasks of all names are as many as have finished with that result."""
    pool = make_pool(2, queue_capacity=10, task_metrics=["divmod"])

    def hammer() -> None:
        for number in range(300):
            pool.submit_wait(divmod if number % 2 else pow, number, number % 3)

    threads = [threading.Thread(target=hammer) for _ in range(2)]
    for thread in threads:
        thread.start()
    scrapes = 0
    while scrapes < 10 or any(thread.is_alive() for thread in threads):
        found = series(registry)
        by_result: dict[str, float] = {}
        completed: dict[str, float] = {}
        for (name, labels), count in found.items():
            into = {FINISHED: by_result, "workerpool_completed_total": completed}.get(name)
            if into is not None:
                result = dict(labels)["result"]
                into[result] = into.get(result, 0.0) + count
        assert by_result == completed
        scrapes += 1
    for thread in threads:
        thread.join(PATIENCE)
    pool.stop()
    assert value(registry, SECONDS, task="divmod") + value(registry, SECONDS, task="other") == pytest.approx(
        value(registry, "workerpool_task_duration_seconds_sum"), abs=1e-6
    )
