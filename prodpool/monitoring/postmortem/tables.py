"""The tables of a postmortem: what the incident cost, and how large the pools were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prodpool.monitoring.formatting import decimal, elapsed
from prodpool.monitoring.postmortem.markdown_names import name_pool
from prodpool.monitoring.postmortem.pool_counts import PoolCounts
from prodpool.monitoring.postmortem.pool_history import PoolHistory, PoolKey
from prodpool.monitoring.postmortem.pool_size import PoolPeaks, PoolSize
from prodpool.monitoring.postmortem.timeline import time_of_day

NO_DATA, NOT_EXPORTED = "no data", "not exported"
_BUDGET_MINUTES = 30 * 24 * 60


def impact_table(
    history: PoolHistory, counts: Mapping[PoolKey, PoolCounts], peaks: Mapping[PoolKey, PoolPeaks], slo: float
) -> Iterator[str]:
    """Yield a table with a column for each pool of ``counts``; ``slo`` is the share that is to end well."""
    rows: tuple[tuple[str, Callable[[PoolKey], str]], ...] = (
        ("scraped", lambda pool: _scraped(history, pool)),
        ("tasks offered", lambda pool: _number(counts[pool].total("offered"))),
        ("admitted", lambda pool: _number(counts[pool].total("submitted"))),
        ("finished, by result", lambda pool: _parts(counts[pool], "completed")),
        ("dropped, by reason", lambda pool: _parts(counts[pool], "dropped")),
        ("abandoned by a stop", lambda pool: _number(counts[pool].total("abandoned"))),
        ("workers lost", lambda pool: _workers_lost(counts[pool])),
        ("failed or lost, of those that ended", lambda pool: _bad(counts[pool])),
        (f"objective of {_percent(slo)}", lambda pool: _burn(counts[pool], slo)),
        ("error budget of 30 days burnt", lambda pool: _burnt(counts[pool], slo, history.range.seconds)),
        ("most tasks queued", lambda pool: _number(peaks[pool].queue_depth)),
        ("longest wait in the queue", lambda pool: _seconds(peaks[pool].oldest_queued)),
        ("most hung tasks", lambda pool: _number(peaks[pool].hung_tasks)),
    )
    yield f"| | {' | '.join(name_pool(pool, history.pools) for pool in counts)} |"
    yield f"|---|{'---|' * len(counts)}"
    for name, cell in rows:
        cells = (cell(pool) if history.instances(pool) else NO_DATA for pool in counts)
        yield f"| {name} | {' | '.join(cells)} |"


def size_table(
    history: PoolHistory, sizes: Mapping[PoolKey, tuple[PoolSize, PoolSize, PoolSize]]
) -> Iterator[str]:
    """Yield a table of how large pools were before, during and now."""
    rows: tuple[tuple[str, Callable[[PoolSize], str]], ...] = (
        ("workers", lambda size: _number(size.workers)),
        ("places in the queue", lambda size: _number(size.queue_capacity)),
        ("tasks offered per second", lambda size: _decimals(size.arrival_rate)),
        ("mean duration", lambda size: _seconds(size.mean_duration)),
        ("p99 duration", lambda size: _seconds(size.p99_duration)),
        ("workers needed (Little's law)", lambda size: _decimals(size.workers_needed)),
    )
    for pool, times in sizes.items():
        if len(sizes) > 1:
            yield from (f"{name_pool(pool, history.pools)}:", "")
        yield "| | before | during | now |"
        yield "|---|---|---|---|"
        for name, cell in rows:
            cells = (NO_DATA if (text := cell(size)) == NOT_EXPORTED else text for size in times)
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""
    yield (
        "- All instances together. Before: as long a time, up to the beginning. Now: up to the moment of "
        "this report, an hour at most. Workers and places are those at the end of each."
    )
    yield (
        "- Workers needed are tasks offered per second times mean duration. A task that has not finished has "
        "no duration, and none is shown longer than the highest bound of the histogram."
    )


def _scraped(history: PoolHistory, pool: PoolKey) -> str:
    instances = history.instances(pool)
    first = min(history.scrapes[key][0] for key in instances)
    last = max(history.scrapes[key][-1] for key in instances)
    number = f"{len(instances)} instance{'' if len(instances) == 1 else 's'}"
    return f"{number}, {time_of_day(first)} to {time_of_day(last)}"


def _parts(counts: PoolCounts, metric: str) -> str:
    parts = counts.by_label(metric)
    if not parts:
        return NOT_EXPORTED
    told = [f"{number:,} {label}" for label, number in parts.items() if number]
    none = [label for label, number in parts.items() if not number]
    told += [f"0 {', '.join(none)}"] if none else []
    return f"{sum(parts.values()):,}: {', '.join(told)}"


def _workers_lost(counts: PoolCounts) -> str:
    if counts.by_label("workers_lost"):
        return _parts(counts, "workers_lost")
    return _number(counts.total("backend_rebuilds"))


def _bad(counts: PoolCounts) -> str:
    if counts.bad_share is None:
        return "no task ended"
    return f"{counts.bad:,} of {counts.ended:,}: {_percent(counts.bad_share)}"


def _burn(counts: PoolCounts, slo: float) -> str:
    if counts.bad_share is None:
        return "no task ended"
    missed = "missed" if counts.bad_share > 1 - slo else "kept"
    return f"{missed}: {_decimals(counts.bad_share / (1 - slo))} times the share that may end badly"


def _burnt(counts: PoolCounts, slo: float, seconds: float) -> str:
    if counts.bad_share is None:
        return "no task ended"
    burnt, budget = counts.bad_share * seconds / 60, _BUDGET_MINUTES * (1 - slo)
    return f"{_decimals(burnt)} of {_decimals(budget)} minutes ({_percent(burnt / budget)})"


def _number(value: float | None) -> str:
    return NOT_EXPORTED if value is None else f"{value:,.0f}"


def _decimals(value: float | None) -> str:
    """Write a number with three figures that count, or more before its point."""
    if value is None:
        return NOT_EXPORTED
    return f"{value:,.0f}" if abs(value) >= 100 else decimal(float(f"{value:.3g}"))  # noqa: PLR2004


def _seconds(value: float | None) -> str:
    if value is None:
        return NOT_EXPORTED
    return f"{_decimals(value)} s" if value < 60 else elapsed(value)  # noqa: PLR2004


def _percent(share: float) -> str:
    return f"{_decimals(100 * share)} %"
