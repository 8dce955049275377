"""Thresholds that one pool has of its own: how they are read, and what rules and runbook make of them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prodpool.monitoring.model import Alert, render
from prodpool.monitoring.selectors import add_matchers, any_of, matcher
from prodpool.monitoring.thresholds import PER_POOL, AlertThresholds, SettingError, only_per_pool, options

_KINDS = {name: kind for name, _, kind, *_ in options()}
_FORM = "pass NAME:THRESHOLD=VALUE, such as mail:dwell=60,duration=30"

Pools = dict[str, dict[str, float]]


def read_pools(given: Sequence[str], file: Path | None) -> Pools:
    """Return by pool the thresholds of a TOML file and of options ``NAME:THRESHOLD=VALUE[,...]``.

    Raises:
        SettingError: Something is not of that form, or is given twice with different values.
    """
    pools: Pools = {}
    for told, pool, name, text in (*_of_file(file), *_of_options(given)):
        own, value = pools.setdefault(pool, {}), _value(told, name, text)
        if name in own and own[name] != value:
            raise SettingError(f"{told}: pool {pool} has {name} {own[name]} already: pass it once")
        own[name] = value
    return pools


# What is yielded: what to call it in a message, the pool, the threshold, the value as text.
_Given = tuple[str, str, str, str]


def _of_options(given: Sequence[str]) -> Iterator[_Given]:
    for one in given:
        # A pool's name may have a colon in it; a threshold has none.
        pool, _, thresholds = one.rpartition(":")
        for each in thresholds.split(","):
            name, equals, text = each.partition("=")
            if not (pool and equals):
                raise SettingError(f"--pool {one}: {_FORM}")
            yield f"--pool {pool}:{each.strip()}", pool, name.strip().replace("-", "_"), text.strip()


def _of_file(file: Path | None) -> Iterator[_Given]:
    if file is None:
        return
    for pool, thresholds in _read_toml(file).items():
        if not isinstance(thresholds, dict):
            raise SettingError(f"--pools {file}: {pool}: write a table for each pool, such as [mail]")
        for name, value in thresholds.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise SettingError(f"--pools {file}: {pool}: {name}: write a number, such as dwell = 60")
            yield f"--pools {file}: {pool}: {name}", pool, name.replace("-", "_"), str(value)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"--pools {file}: {error.strerror}: pass a file that can be read") from None
    except ValueError as error:
        raise SettingError(f"--pools {file}: this is not TOML: {error}") from None


def _value(told: str, name: str, text: str) -> float:
    if name not in PER_POOL:
        raise SettingError(f"{told}: {only_per_pool()}")
    kind: Callable[[str], float] = _KINDS[name]
    try:
        return kind(text)
    except ValueError:
        raise SettingError(f"{told}: pass a {'whole ' if kind is int else ''}number") from None


def by_pool(settings: AlertThresholds) -> dict[str, AlertThresholds]:
    """Return what the rules of each pool that has thresholds of its own are written with."""
    return {pool: settings.of_pool(pool) for pool in sorted(settings.pools)}


def pools_apart(alert: Alert, settings: AlertThresholds) -> dict[str, AlertThresholds]:
    """Return the pools for which the alert is another one than for the rest, with their thresholds."""
    common = _written(alert, settings)
    return {pool: own for pool, own in by_pool(settings).items() if _written(alert, own) != common}


def _written(alert: Alert, settings: AlertThresholds) -> tuple[str, float, Mapping[str, str]]:
    return render(alert.expr, settings), alert.holds_for(settings), alert.annotations(settings)


def common_expr(alert: Alert, settings: AlertThresholds) -> str:
    """Return the alert's expression, without the pools for which it is another one."""
    expr, apart = render(alert.expr, settings), list(pools_apart(alert, settings))
    if not apart:
        return expr
    one_alone = len(apart) == 1
    excluded = matcher("pool", "!=", apart[0]) if one_alone else matcher("pool", "!~", any_of(apart))
    return add_matchers(expr, [excluded])


def pool_expr(alert: Alert, pool: str, own: AlertThresholds) -> str:
    """Return the alert's expression for one pool alone."""
    return add_matchers(render(alert.expr, own), [matcher("pool", "=", pool)])


def for_each_pool(say: Callable[[AlertThresholds], str], settings: AlertThresholds) -> str:
    """Return what there is to say of all pools, and in parentheses of those for which it is another thing.

    Such as ``30 seconds (`mail`: 1 minute)``.
    """
    common = say(settings)
    said = {pool: say(own) for pool, own in by_pool(settings).items()}
    others = [f"`{pool}`: {text}" for pool, text in said.items() if text != common]
    return f"{common} ({'; '.join(others)})" if others else common
