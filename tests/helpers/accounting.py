"""Whether every task is in exactly one place, by the pool's own numbers and by a scrape."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from prodpool import PoolStats, Reason
from prodpool.task.outcomes import AFTER_ADMISSION


def unaccounted(stats: PoolStats) -> int:
    """Return how many admitted tasks are accounted for nowhere; negative if some are counted twice."""
    dropped = sum(stats.dropped[reason] for reason in AFTER_ADMISSION)
    return stats.submitted - sum(stats.completed.values()) - dropped - stats.queued - stats.running


def counts_add_up(stats: PoolStats) -> bool:
    """Tell whether every admitted task is in exactly one place."""
    return unaccounted(stats) == 0


def unsettled(stats: PoolStats) -> list[str]:
    """Say what keeps a pool from being at rest with every task accounted for."""
    found = {
        "queued for ever": stats.queued,
        "running for ever": stats.running,
        "law off by": unaccounted(stats),
    }
    return [f"{what}: {number}" for what, number in found.items() if number]


def check(stats: PoolStats) -> PoolStats:
    """Assert conservation and bounds, and return ``stats``."""
    assert counts_add_up(stats), stats
    assert 0 <= stats.running <= stats.workers, stats
    assert 0 <= stats.queued <= stats.queue_capacity, stats
    return stats


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    """Return every sample of a scrape by its name and labels, as the text format writes them."""
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if x[:1] != "#")}


def check_scrape(samples: dict[str, float], pool: str) -> None:
    """Assert conservation and bounds from what was scraped, and from nothing else."""

    def total(metric: str, *labels: str) -> float:
        wanted = {f'{metric}{{pool="{pool}"}}', *(f'{metric}{{pool="{pool}",{x}}}' for x in labels)}
        wanted |= {f'{metric}{{{x},pool="{pool}"}}' for x in labels}
        return sum(samples[name] for name in wanted & samples.keys())

    completed = total(
        "workerpool_completed_total",
        *(f'result="{result}"' for result in ("ok", "error", "panic", "timeout")),
    )
    dropped = total("workerpool_dropped_total", *(f'reason="{reason}"' for reason in AFTER_ADMISSION))
    queued, running = total("workerpool_queue_depth"), total("workerpool_workers_busy")
    state = {name: value for name, value in samples.items() if f'pool="{pool}"' in name and "le=" not in name}
    assert total("workerpool_submitted_total") == completed + dropped + queued + running, state
    refused = total("workerpool_dropped_total", *(f'reason="{each}"' for each in Reason)) - dropped
    assert total("workerpool_offered_total") == total("workerpool_submitted_total") + refused, state
    assert 0 <= running <= total("workerpool_workers"), state
    assert 0 <= queued <= total("workerpool_queue_capacity"), state


def check_counters(before: dict[str, float], after: dict[str, float]) -> None:
    """Assert that nothing which may only grow has shrunk or gone between two scrapes."""
    shrunk = {
        name: (value, after.get(name))
        for name, value in before.items()
        if name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))
        and not after.get(name, -1.0) >= value
    }
    assert not shrunk, shrunk
