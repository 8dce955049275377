"""Process pools that are handed tasks: built anew when one breaks; what may have broken it is tried alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from prodpool import (
    PoolBrokenError,
    Reason,
    Result,
    TaskExpiredError,
    UnpicklableError,
    WorkerLostError,
)
from prodpool.workers.handoff import rebuildable_backend
from tests.backends import work
from tests.backends.conftest import PATIENCE, MakePool, handed
from tests.helpers.accounting import check

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.parametrize("kind", ["handed"], indirect=True),
]


def test_a_trial_that_has_expired(make_pool: MakePool) -> None:
    """A task whose deadline has passed by the time it is to be tried is dropped."""
    pool = make_pool(1, factory=True, queue_capacity=20)
    pool.submit(work.pid).result(PATIENCE)
    late = pool.options(idempotent=True, deadline=0.2).submit(work.die_late, 0.3)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(TaskExpiredError):
        late.result(PATIENCE)
    # The one that waits in the backend behind it may have begun, for all that is known.
    assert [future.result(PATIENCE) for future in others[1:]] == [1, 2]
    assert check(pool.stats()).in_flight == 0


def test_a_trial_that_pickles_no_more(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that cannot be handed over again fails by that."""
    monkeypatch.setattr(work.PicklesOnce, "_times", 0)
    pool = make_pool(1, factory=True, queue_capacity=20)
    seconds: Any = work.PicklesOnce()
    once = pool.options(idempotent=True).submit(work.die_late, seconds)
    others = [pool.submit(abs, -number) for number in range(3)]
    with pytest.raises(UnpicklableError):
        once.result(PATIENCE)
    assert [future.result(PATIENCE) for future in others[1:]] == [1, 2]
    assert check(pool.stats()).in_flight == 0


def test_a_trial_that_the_backend_refuses(make_pool: MakePool, tmp_path: Path) -> None:
    """A task whose trial the next backend does not take is tried on the one after that."""
    pool = make_pool(1, factory=True, queue_capacity=20, prefetch=0, factory_of=_second_refuses_once)
    again = pool.options(idempotent=True).submit(work.attempt, str(tmp_path / "book"), 1)
    others = [pool.submit(abs, -number) for number in range(3)]
    assert again.result(PATIENCE) == 2
    assert [future.result(PATIENCE) for future in others] == [0, 1, 2]
    assert pool._engine.workers.rebuilds() == 2


def _second_refuses_once(_: str) -> Callable[[int], Any]:
    built = itertools.count(1)

    def factory(workers: int) -> Any:
        backend: Any = handed(workers)
        errors = [BrokenExecutor("not now")] if next(built) == 2 else []
        submit = backend.submit

        def refuse(*args: Any, **kwargs: Any) -> Any:
            if errors:
                raise errors.pop()
            return submit(*args, **kwargs)

        backend.submit = refuse
        return backend

    return factory


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


def test_without_a_factory(make_pool: MakePool) -> None:
    """An executor that cannot be built anew is broken for good, and the pool closes and says so."""
    pool = make_pool(1, own_backend=False, prefetch=0, queue_capacity=5)
    deadly = pool.submit(work.die)
    with pytest.raises(WorkerLostError, match="the wrapped executor broke"):
        deadly.result(PATIENCE)
    make_pool.logs.wait_for("pool.stopped", timeout=PATIENCE)
    with pytest.raises(PoolBrokenError):
        pool.submit(int)
    pool._engine.backend.shutdown()


@pytest.mark.timeout(240)
def test_a_backend_that_never_works(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """After five backends without one success the pool closes with a clear error, and forgets nothing."""
    # Within a minute, that is, which a busy machine may need for six processes that come up and die.
    monkeypatch.setattr(rebuildable_backend, "REBUILD_PERIOD", 600.0)
    pool = make_pool(1, factory=True, queue_capacity=20, prefetch=0, factory_of=lambda _: work.stillborn)
    futures = [pool.submit(int) for _ in range(10)]
    assert not wait(futures, 120.0).not_done
    assert all(isinstance(future.exception(0), WorkerLostError) for future in futures)
    make_pool.logs.wait_for("pool.backend_broken", timeout=PATIENCE)
    make_pool.logs.wait_for("pool.stopped", timeout=PATIENCE)
    with pytest.raises(PoolBrokenError):
        pool.submit(int)
    stats = check(pool.stats())
    assert stats.in_flight == 0
    assert stats.dropped[Reason.SHUTDOWN] + stats.completed[Result.PANIC] == 10


def test_stop_while_the_backend_is_down(make_pool: MakePool) -> None:
    """A stop at its deadline ends a pool whose next backend is still to come, and nothing comes after it."""
    pool = make_pool(1, factory=True, queue_capacity=5)
    workers: Any = pool._engine.workers
    workers._backends._delay = 600.0
    deadly = pool.submit(work.die)
    assert isinstance(deadly.exception(PATIENCE), WorkerLostError)
    stranded = [pool.submit(int) for _ in range(3)]
    report = pool.stop(0.2)
    assert not report.drained
    assert not wait(stranded, PATIENCE).not_done
