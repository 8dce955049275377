"""Tasks are counted by name wherever they run, and what only some backends take is exported."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.backends import work
from tests.backends.conftest import PATIENCE, MakePool
from tests.telemetry.scraping import series, value


def counted(registry: CollectorRegistry, pool: str) -> dict[tuple[str, str], float]:
    """Return how many tasks of each name ended in each way, where any did."""
    return {
        (dict(labels)["task"], dict(labels)["result"]): count
        for (name, labels), count in series(registry).items()
        if name == "workerpool_tasks_finished_total" and ("pool", pool) in labels and count
    }


def test_by_name_and_result(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Over every backend a task counts under its name with its result, one that ends well and fast too."""
    pool = make_pool(2, task_metrics=("divmod", "boom"))
    for _ in range(3):
        assert pool.submit(divmod, 7, 4).result(PATIENCE) == (1, 3)
    assert list(pool.map(divmod, range(5), [1] * 5)) == [(number, 0) for number in range(5)]
    pool.submit(work.boom).exception(PATIENCE)
    pool.submit(abs, -1).result(PATIENCE)
    pool.stop(PATIENCE)
    expected = {("divmod", "ok"): 8, ("boom", "error"): 1, ("other", "ok"): 1}
    assert counted(registry, pool.name) == expected


@pytest.mark.parametrize("kind", ["forkserver"], indirect=True)
def test_a_killed_task(make_pool: MakePool, registry: CollectorRegistry, tmp_path: Any) -> None:
    """A task that was killed for its run-time limit counts with that result and the time that it ran."""
    pool = make_pool(1, task_metrics=("hangs",))
    pool.options(task="hangs", timeout=0.2).submit(work.hang, str(tmp_path / "hangs")).exception(PATIENCE)
    pool.stop(PATIENCE)
    assert counted(registry, pool.name) == {("hangs", "timeout"): 1}
    assert value(registry, "workerpool_tasks_run_seconds_total", pool=pool.name, task="hangs") >= 0.2


@pytest.mark.parametrize("kind", ["forkserver", "other"], indirect=True)
def test_prefetch(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A number of tasks to send ahead is among what the pool was told, if it was."""
    for given in (3, None):
        pool = make_pool(1, prefetch=given)
        found = {
            dict(labels)["knob"]: number
            for (name, labels), number in series(registry).items()
            if name == "workerpool_config" and ("pool", pool.name) in labels
        }
        assert found.get("prefetch") == given
