"""What a pool was told, and the threads of the process, as metrics."""

from __future__ import annotations

import math
import threading
from typing import Any

import pybreaker
import pytest
from prometheus_client import CollectorRegistry

from prodpool import BreakerPolicy
from tests.helpers.tasks import BlockingTask
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool
from tests.telemetry.scraping import series, value

TOLD: dict[str, float] = {
    "max_workers": 2, "slow_after": 0.5, "hung_after": 60.0, "drain_deadline": 25.0, "overload:reject": 1,
    "on_hang_exit:exit": 1,
}  # fmt: skip
BREAKER: dict[str, float] = {
    "breaker_consecutive_failures": 5, "breaker_open_for": 30.0, "breaker_half_open_permits": 1,
    "breaker_successes_to_close": 1,
}  # fmt: skip
RATES = BreakerPolicy(consecutive_failures=None, failure_rate=0.5, slow_call_rate=0.25, slow_after=2.0)


def knobs(registry: CollectorRegistry, pool: str = "test") -> dict[str, float]:
    """Return the knobs of a pool as they are scraped."""
    return {
        dict(labels)["knob"]: number
        for (name, labels), number in series(registry).items()
        if name == "workerpool_config" and ("pool", pool) in labels
    }


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, TOLD),
        ({"slow_after": 0, "hung_after": math.inf}, TOLD | {"slow_after": 0.0, "hung_after": math.inf}),
        ({"breaker": BreakerPolicy()}, TOLD | BREAKER),
        ({"breaker": pybreaker.CircuitBreaker()}, TOLD),
    ],
    ids=["nothing", "numbers", "breaker", "pybreaker"],
)
def test_what_it_was_told(
    make_pool: MakePool, registry: CollectorRegistry, options: dict[str, Any], expected: dict[str, float]
) -> None:
    """Each option has its number, math.inf too; what is None, or not there, has no series."""
    make_pool(**options)
    assert knobs(registry) == expected


def test_choices(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Of a choice the one that was made is there, and no other."""
    make_pool(overload="block", on_hang_exit="wait")
    assert {name for name in knobs(registry) if ":" in name} == {"overload:block", "on_hang_exit:wait"}


def test_rates_of_a_breaker(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """A policy that looks at rates shows them with the window that they are taken over."""
    make_pool(breaker=RATES)
    found = {name: number for name, number in knobs(registry).items() if name.startswith("breaker_")}
    assert found == {
        "breaker_failure_rate": 0.5,
        "breaker_slow_call_rate": 0.25,
        "breaker_slow_after": 2.0,
        "breaker_window": 100,
        "breaker_minimum_calls": 20,
        "breaker_open_for": 30.0,
        "breaker_half_open_permits": 1,
        "breaker_successes_to_close": 1,
    }


def test_a_resize_leaves_it(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """It is what the pool was told, and `workerpool_workers` what there is."""
    pool = make_pool(4, max_workers=2)
    pool.resize(4)
    assert (knobs(registry)["max_workers"], value(registry, "workerpool_workers")) == (2, 4)


def test_pools_of_one_name(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """Of several pools of one name the greatest number counts; a stopped one has no say."""
    pools = [make_pool(name="mail", hung_after=seconds) for seconds in (10.0, 30.0, 20.0)]
    assert knobs(registry, "mail")["hung_after"] == 30.0
    pools[1].stop()
    assert knobs(registry, "mail")["hung_after"] == 20.0
    for pool in pools:
        pool.stop()
    assert knobs(registry, "mail")["hung_after"] == 20.0  # the newest


def test_the_threads_of_the_process(make_pool: MakePool, registry: CollectorRegistry) -> None:
    """The number is that of now, of all threads, also where the only pool has stopped."""
    pool = make_pool(1)
    pool.stop()
    before = value(registry, "workerpool_process_threads")
    gate = BlockingTask()
    threads = [threading.Thread(target=gate) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert value(registry, "workerpool_process_threads") >= 20
    gate.release()
    for thread in threads:
        thread.join(PATIENCE)
    assert 1 <= value(registry, "workerpool_process_threads") <= before
