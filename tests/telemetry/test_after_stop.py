"""A stopped pool leaves its numbers for a scrape, and nothing of its machinery."""

from __future__ import annotations

import multiprocessing
import weakref
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool, PoolClosedError
from prodpool.telemetry import pool_exports
from prodpool.telemetry.exporters.prometheus import collector_of
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
STOPPED = "workerpool_stopped{"
COMPLETED = 'workerpool_completed_total{pool="%s",result="ok"}'


def is_collected(engine: weakref.ref[Any]) -> bool:
    return engine() is None


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
    """A pool that nobody refers to is let go of before anybody scrapes; its numbers stay."""
    engine = used(make(name="dropped", registry=registry), stop=stop)
    until_collected(lambda: engine() is None)
    assert scrape(registry)[COMPLETED % "dropped"] == 1
    assert scrape(registry)[COMPLETED % "dropped"] == 1


def kept_names(registry: CollectorRegistry) -> list[str]:
    return sorted(sample.split('"')[1] for sample in scrape(registry) if STOPPED in sample)


def test_ever_new_names(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest names that have no pool any more stay; older ones are scraped once, up to a bound."""
    monkeypatch.setattr(pool_exports, "KEPT_NAMES", 2)
    monkeypatch.setattr(pool_exports, "UNSCRAPED_NAMES", 4)
    alive = prodpool.threads(name="alive", max_workers=1, registry=registry)
    for number in range(6):
        engine = used(prodpool.threads(name=f"gone_{number}", max_workers=1, registry=registry), stop=True)
        until_collected(partial(is_collected, engine))
    assert kept_names(registry) == ["alive", "gone_2", "gone_3", "gone_4", "gone_5"]
    assert kept_names(registry) == ["alive", "gone_4", "gone_5"]
    alive.stop()


def test_without_scrapes_the_names_are_bounded(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is never scraped does not keep what it would show of all the names it ever had."""
    monkeypatch.setattr(pool_exports, "KEPT_NAMES", 2)
    monkeypatch.setattr(pool_exports, "UNSCRAPED_NAMES", 4)
    exports = collector_of(registry).exports
    for number in range(20):
        engine = used(prodpool.threads(name=f"gone_{number}", max_workers=1, registry=registry), stop=True)
        until_collected(partial(is_collected, engine))
    assert len(exports._cells) <= 2 * (4 + 1) + 2 + 1


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
