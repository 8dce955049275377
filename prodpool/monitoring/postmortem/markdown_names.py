"""Names from outside in Markdown: of pools, instances and alerts, as whoever made them chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prodpool.monitoring.postmortem.pool_history import PoolKey
from prodpool.text import short_name

_MOST = 4


def code(name: str) -> str:
    """Write a name as code, such that it breaks neither the line nor a table."""
    return f"`{short_name(name).replace('`', ' ').replace('|', '/')}`"


def name_pool(pool: PoolKey, among: Iterable[PoolKey]) -> str:
    """Write the name of a pool, with its job where those of several jobs are told of."""
    several = len({each.job for each in among}) > 1
    name = code(pool.pool) if pool.pool else "the process"
    return f"{name} of {code(pool.job)}" if several else name


def name_pools(pools: Iterable[PoolKey], among: Sequence[PoolKey]) -> str:
    """Write the names of pools."""
    return ", ".join(name_pool(pool, among) for pool in pools)


def name_instances(instances: Sequence[str]) -> str:
    """Write the names of instances, or of the first few if there are many."""
    if len(instances) <= _MOST:
        return ", ".join(map(code, instances))
    return f"{len(instances)} instances ({', '.join(map(code, instances[:_MOST]))}, ...)"
