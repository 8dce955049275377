"""Stopping all pools of a process, as a worker of a server does that ends."""

from __future__ import annotations

import threading

import pytest

from prodpool import InstrumentedPool, PoolClosedError
from prodpool.engine_holder import stop_pools
from tests.helpers.tasks import BlockingTask, occupy
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


def test_all_that_are_in_use(make_pool: MakePool, hold: BlockingTask) -> None:
    """They drain side by side, each within its own deadline; one that was not used stays open."""
    busy, quick, unused = make_pool(1), make_pool(1, drain_deadline=0.01), make_pool(1)
    futures = [*occupy(busy, hold, 1), *occupy(quick, hold, 1)]
    queued = busy.submit(abs, -7)
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(len(stop_pools(PATIENCE))))
    stopping.start()
    assert futures[1].exception(PATIENCE) is not None, "the one with the short deadline has given its task up"
    hold.release()
    stopping.join(PATIENCE)
    assert stopped == [2]
    assert queued.result(PATIENCE) == 7
    with pytest.raises(PoolClosedError):
        busy.submit(abs, -7)
    assert unused.submit(abs, -7).result(PATIENCE) == 7


def test_one_that_fails(make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt in the stop of one pool does not keep the others from being stopped."""
    pools: list[InstrumentedPool] = [make_pool(1) for _ in range(3)]
    for pool in pools:
        pool.submit(abs, -7).result(PATIENCE)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pools[1]._holder, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stop_pools(PATIENCE)
    monkeypatch.undo()
    assert [pool.stats().state for pool in pools] == ["stopped", "open", "stopped"]
