from __future__ import annotations

import math

import pytest

from examples.webhook_service.scrape import Buckets, ScrapeError, parse
from tests.examples.exposition import POOL, RESULTS, exposition, snapshot


def test_a_scrape_becomes_a_snapshot() -> None:
    """Every series that the demonstration judges by is read from the exposition."""
    read = snapshot(3.0, breaker="half_open")
    assert (read.at, read.submitted, read.offered) == (3.0, 100, 107)
    assert read.completed == {**dict.fromkeys(RESULTS, 0), "ok": 80, "error": 5}
    assert {reason: n for reason, n in read.dropped.items() if n} == {
        "full": 7,
        "shutdown": 3,
        "cancelled": 2,
    }
    assert (read.queue_depth, read.queue_capacity, read.workers_busy, read.workers) == (4, 32, 6, 8)
    assert (read.oldest_queued, read.longest_running, read.hung) == (0.25, 1.5, 1)
    assert (read.breaker, read.stopped, read.exemplars) == ("half_open", False, 2)
    assert read.dwell == Buckets((0.01, 0.1, 1.0, math.inf), (50, 90, 100, 100))


def test_another_pool_in_the_same_scrape_is_left_alone() -> None:
    """The series of a second pool are not added to those of the first."""
    blocks = exposition(exemplars=False).removesuffix("# EOF\n").split("# TYPE ")[1:]
    others = (
        "".join(f"{line}\n" for line in block.splitlines()[1:]).replace(POOL, "other") for block in blocks
    )
    both = "".join(f"# TYPE {block}{other}" for block, other in zip(blocks, others, strict=True)) + "# EOF\n"
    assert parse(both, POOL, 0.0) == parse(both, "other", 0.0) == snapshot(exemplars=False)


def test_a_pool_that_is_not_there_is_named() -> None:
    """Asking for a pool that exports nothing is an error that names it."""
    with pytest.raises(ScrapeError, match="of pool 'other'"):
        parse(exposition(), "other", 0.0)


@pytest.mark.parametrize("metric", ["submitted_total", "queue_depth", "queue_dwell_seconds", "stopped"])
def test_a_missing_series_is_named(metric: str) -> None:
    """A scrape that lacks a metric is an error that names it, not a zero."""
    with pytest.raises(ScrapeError, match=f"workerpool_{metric}"):
        parse(exposition(without=metric), POOL, 0.0)


@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        pytest.param(0.5, (0, 100, 100, 100), 0.055, id="in the middle of its bucket"),
        pytest.param(0.95, (100, 100, 100, 100), 0.0095, id="in the first bucket, from zero"),
        pytest.param(0.95, (0, 0, 0, 10), 1.0, id="beyond the last bound, which is all that is known"),
        pytest.param(0.5, (10, 10, 20, 20), 0.01, id="on the edge of a bucket"),
        pytest.param(0.5, (0, 0, 0, 0), None, id="of nothing"),
    ],
)
def test_a_quantile_is_interpolated_as_prometheus_does(
    q: float, counts: tuple[int, ...], expected: float | None
) -> None:
    """Quantiles are linear within the bucket that holds their rank."""
    found = Buckets((0.01, 0.1, 1.0, math.inf), counts).quantile(q)
    assert found == (None if expected is None else pytest.approx(expected))
