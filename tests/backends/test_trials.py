"""A task that may have broken the backend is tried alone, and however that ends the others go on."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

import pytest

from prodpool import TaskExpiredError, UnpicklableError, WorkerLostError
from tests.backends import work
from tests.backends.conftest import BACKENDS, PATIENCE, MakePool, over_processes
from tests.core.rig import check

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]
each = pytest.mark.parametrize("kind", over_processes, indirect=True)


@each
def test_a_trial_that_has_expired(make_pool: MakePool) -> None:
    """A task whose deadline has passed by the time it is to be tried is dropped."""
    pool = make_pool(1, factory=True, queue_capacity=20)
    pool.submit(work.pid).result(PATIENCE)
    late = pool.options(idempotent=True, deadline=0.2).submit(work.die_late, 0.3)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(TaskExpiredError):
        late.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert check(pool.stats()).in_flight == 0


@each
def test_a_trial_that_pickles_no_more(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that cannot be handed over again fails by that."""
    monkeypatch.setattr(work.PicklesOnce, "_times", 0)
    pool = make_pool(1, factory=True, queue_capacity=20)
    seconds: Any = work.PicklesOnce()
    once = pool.options(idempotent=True).submit(work.die_late, seconds)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(UnpicklableError):
        once.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert check(pool.stats()).in_flight == 0


@each
def test_a_trial_that_the_backend_refuses(make_pool: MakePool, tmp_path: Path) -> None:
    """A task whose trial the next backend does not take is tried on the one after that."""
    pool = make_pool(1, factory=True, queue_capacity=20, factory_of=_second_refuses_once)
    again = pool.options(idempotent=True).submit(work.attempt, str(tmp_path / "book"), 1)
    others = [pool.submit(abs, -number) for number in range(3)]
    assert again.result(PATIENCE) == 2
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert pool._engine.workers.rebuilds() == 2


def _second_refuses_once(kind: str) -> Callable[[int], Any]:
    built = itertools.count(1)

    def factory(workers: int) -> Any:
        backend = BACKENDS[kind](workers)
        errors = [BrokenExecutor("not now")] if next(built) == 2 else []
        submit = backend.submit

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if errors:
                raise errors.pop()
            return submit(*args, **kwargs)

        backend.submit = refuse
        return backend

    return factory


@pytest.mark.parametrize("kind", ["fork"], indirect=True)
def test_many_poison_tasks(make_pool: MakePool, tmp_path: Path) -> None:
    """More of them than backends are built in vain do not close the pool: it is known what broke those."""
    pool = make_pool(4, factory=True, queue_capacity=50)
    view = pool.options(idempotent=True)
    poisons = [view.submit(work.poison, str(tmp_path / f"book {number}")) for number in range(4)]
    others = [view.submit(abs, -number) for number in range(10)]
    for poison in poisons:
        with pytest.raises(WorkerLostError):
            poison.result(60.0)
    assert [future.result(PATIENCE) for future in others] == list(range(10))
    assert check(pool.stats()).state == "open"
