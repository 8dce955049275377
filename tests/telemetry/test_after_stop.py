"""A stopped pool leaves its numbers for a scrape, and nothing of its machinery."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolClosedError
from prodpool.telemetry.exporters import prometheus
from tests.helpers.accounting import scrape
from tests.helpers.waiting import PATIENCE, until_collected
from tests.support import MakePool

MAKERS: dict[str, Callable[..., InstrumentedPool]] = {
    "threads": lambda **options: prodpool.threads(max_workers=1, **options),
    # Forked, since another start method leaves a helper process behind.
    "processes": lambda **options: InstrumentedPool(
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")), **options
    ),
}
COMPLETED = 'workerpool_completed_total{pool="%s",result="ok"}'


def used(pool: InstrumentedPool, *, stop: bool) -> weakref.ref[Any]:
    """Run one task, stop the pool if wanted, and return a weak reference to its machinery."""
    assert pool.submit(int).result(PATIENCE) == 0
    if stop:
        pool.stop(PATIENCE)
    return weakref.ref(pool._engine)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "only-dropped"])
def test_nothing_but_numbers(
    registry: CollectorRegistry, make: Callable[..., InstrumentedPool], stop: bool
) -> None:
    """A pool that nobody refers to is let go of before anybody scrapes, and is scraped once more."""
    engine = used(make(name="dropped", registry=registry), stop=stop)
    until_collected(lambda: engine() is None)
    assert scrape(registry)[COMPLETED % "dropped"] == 1
    assert COMPLETED % "dropped" not in scrape(registry)


def test_nobody_scrapes(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of dropped pools of ever new names the latest are kept for a scrape, up to a bound."""
    monkeypatch.setattr(prometheus, "UNSCRAPED", 3)
    alive = prodpool.threads(name="alive", max_workers=1, registry=registry)
    for number in range(6):
        used(prodpool.threads(name=f"dropped_{number}", max_workers=1, registry=registry), stop=True)
    other = prodpool.threads(name="other", max_workers=1, registry=registry)
    samples = scrape(registry)
    kept = [name for name in ["alive", *(f"dropped_{n}" for n in range(6))] if COMPLETED % name in samples]
    assert kept == ["alive", "dropped_3", "dropped_4", "dropped_5"]
    for pool in (alive, other):
        pool.stop()


def test_refused_after_the_stop(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A stopped pool that is still referred to counts what it refuses, in its stats and in the scrape."""
    pool = make_pool(1)
    pool.stop(PATIENCE)
    for count in (1, 2):
        with pytest.raises(PoolClosedError):
            pool.submit(int)
        assert scrape(registry)['workerpool_dropped_total{pool="test",reason="closed"}'] == count
        assert pool.stats().dropped[prodpool.Reason.CLOSED] == count
    pool.close_metrics()
    assert COMPLETED % "test" not in scrape(registry)
    assert pool.stats().state == "stopped"
