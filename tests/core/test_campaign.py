"""Promises 1 and 2 under 100 threads that submit, cancel, fail, pause and stop, scraped all the while."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from prodpool import BreakerOpenError, BreakerPolicy, InstrumentedPool, PoolClosedError, Reason, Result
from tests.core.campaign import LONG, SCRAPES, Campaign
from tests.helpers.tasks import BlockingTask, fill
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKERS, CAPACITY = 8, 40
SUBMITTERS, EACH = 100, 2_000


def settle(pool: InstrumentedPool) -> None:
    """Wait until the breaker, where there is one, is closed: it lets a probe in when its time is up."""
    tick = threading.Event()
    for _ in range(100):
        if pool.stats().breaker in {None, "closed"}:
            return
        try:
            pool.submit_wait(int).result(PATIENCE)
        except BreakerOpenError as error:
            # No longer than this: a permit that has leaked would be out for hung_after, a minute.
            tick.wait(min(error.retry_after or 0.0, 0.05))
    raise AssertionError(pool.stats())


def accepts_exactly_what_fits(pool: InstrumentedPool) -> None:
    """Prove that no slot has leaked: workers + capacity tasks are let in, and no more."""
    hold = BlockingTask()
    accepted = fill(pool, hold)
    hold.wait_started(WORKERS)
    stats = pool.stats()
    hold.release()
    capacity = stats.queue_capacity
    assert (len(accepted), stats.running, stats.queued) == (WORKERS + capacity, WORKERS, capacity)
    for future in accepted:
        future.result(PATIENCE)


@pytest.mark.parametrize(
    ("options", "stop", "each"),
    [
        pytest.param({"overload": "reject"}, 10.0, EACH, id="reject, drained in the middle"),
        pytest.param({"overload": "block"}, None, EACH // 2, id="block"),
        pytest.param({"overload": "block"}, 0.0, EACH // 2, id="block, broken off in the middle"),
        pytest.param({"overload": "caller_runs"}, 0.0, EACH // 4, id="caller_runs, broken off in the middle"),
        pytest.param({"overload": "block", "queue_capacity": 0}, None, EACH // 8, id="nothing may wait"),
        pytest.param(
            {"breaker": BreakerPolicy(consecutive_failures=3, failure_rate=0.3, open_for=0.005)},
            None,
            EACH // 4,
            id="reject, breaker",
        ),
        pytest.param(
            {"overload": "block", "breaker": BreakerPolicy(consecutive_failures=6, open_for=0.002)},
            10.0,
            EACH // 4,
            id="block, breaker, drained in the middle",
        ),
    ],
)
def test_campaign(
    make_pool: MakePool, registry: CollectorRegistry, options: dict[str, Any], stop: float | None, each: int
) -> None:
    """No task is lost, counted twice or run twice, and no slot leaks, whatever goes on at once."""
    pool = make_pool(WORKERS, **{"queue_capacity": CAPACITY, **options})
    campaign = Campaign(pool, registry)
    campaign.run(submitters=SUBMITTERS, each=each, stop=stop)
    stats = campaign.balance()
    assert campaign.scrapes > SCRAPES
    assert stats.completed[Result.OK] > 0
    assert stats.completed[Result.ERROR] > 0
    assert stats.completed[Result.PANIC] > 0
    if stop is None:
        assert stats.state == "open"
        settle(pool)
        accepts_exactly_what_fits(pool)
        assert pool.stop(PATIENCE).drained
    else:
        assert stats.state == "stopped"
        report = pool.stop()
        # On a machine that is too busy to stop in time a caller is told so, and what is known by then.
        assert all(one == report or not one.drained for one in campaign.reports)
        assert report.dropped == stats.dropped[Reason.SHUTDOWN]
        assert report.drained is (report.dropped == 0 and not report.abandoned)
        with pytest.raises(PoolClosedError):
            pool.submit(int)


def test_campaign_on_shared_threads(registry: CollectorRegistry) -> None:
    """The same on a backend that two pools share, whose loops give their threads back all the time."""
    with ThreadPoolExecutor(WORKERS) as backend:
        pools = [
            InstrumentedPool(
                backend, name=name, queue_capacity=CAPACITY, registry=registry, own_backend=False
            )
            for name in ("first", "second")
        ]
        campaigns = [Campaign(pool, registry) for pool in pools]
        threads = [
            threading.Thread(
                target=campaign.guarded(
                    lambda campaign=campaign: campaign.run(submitters=20, each=300, stop=None)  # type: ignore[misc]
                )
            )
            for campaign in campaigns
        ]
        for pool in pools:
            workers: Any = pool._engine.workers
            workers._linger = 0.001
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * LONG)
            assert not thread.is_alive()
        for campaign in campaigns:
            if campaign.telemetry_errors:
                raise campaign.telemetry_errors[0]
            campaign.balance()
        for pool in pools:
            assert pool.stop(PATIENCE).drained
            pool.close_metrics()
        assert backend.submit(lambda: 7).result(PATIENCE) == 7
