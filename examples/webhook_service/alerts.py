"""Which of the project's alerts fired in which act, as Prometheus recorded it, and whether they should have.

The rules are those of ``prodpool export alerts``, with windows and waiting times that suit acts of seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from prodpool.monitoring.thresholds import AlertThresholds

from .acts import Act
from .prometheus import INTERVAL, Prometheus
from .report import Check

# What `prodpool export alerts DIR --window-scale 0.01 ...` would be given: 5 minutes are 3 s.
SETTINGS = AlertThresholds(window_scale=0.01, dwell=1.0, duration=0.5, drain=300.0)
FIRING = 'ALERTS{alertstate="firing"}'
# A deployment must page nobody: the pool is stopped, and offered no work for longer than a drain takes.
NEVER = "PoolStopped"
# An evaluation may be late on a busy machine; an alert that is over is missing from several.
GAP = 5 * INTERVAL
# Windows look back: what an act does may be seen, as long as that, after its end.
GRACE = 300 * SETTINGS.window_scale


@dataclass(frozen=True, slots=True, order=True)
class Firing:
    """One alert from its first evaluation as firing to its last, in unix seconds."""

    first: float
    last: float
    alert: str
    severity: str
    runbook_url: str


@dataclass(frozen=True, slots=True)
class AlertStory:
    """What Prometheus recorded in a whole run, and when each act was played (unix seconds).

    ``scrapes`` are the times at which it saw the service up.
    """

    version: str
    scrapes: tuple[float, ...]
    firings: tuple[Firing, ...]
    acts: tuple[tuple[float, float], ...]

    def began_in(self, number: int) -> list[Firing]:
        """Return what began to fire in an act, numbered from 1; after the last one's end counts to it."""
        start, end = self.acts[number - 1]
        end = math.inf if number == len(self.acts) else end
        return [one for one in self.firings if start <= one.first < end]

    def fired_in(self, number: int, grace: float = 0.0) -> list[Firing]:
        """Return what fired at some time in an act, or within ``grace`` seconds after it."""
        start, end = self.acts[number - 1]
        return [one for one in self.firings if one.first < end + grace and one.last >= start]


def read(prometheus: Prometheus, acts: Sequence[tuple[float, float]]) -> AlertStory:
    """Read from Prometheus what fired from the first act's beginning on."""
    prometheus.wait_for_evaluation()
    rules = prometheus.alert_rules()
    start, now = acts[0][0], time.time()
    firings = sorted(_firings(prometheus.query_range(FIRING, start, now), rules))
    scrapes = (
        float(at) for line in prometheus.query_range("up == 1", start, now) for at, _ in line["values"]
    )
    return AlertStory(prometheus.version, tuple(scrapes), tuple(firings), tuple(acts))


def _firings(lines: Iterable[dict[str, Any]], rules: Mapping[str, Mapping[str, Any]]) -> Iterator[Firing]:
    for line in lines:
        name = line["metric"]["alertname"]
        url = rules[name]["annotations"]["runbook_url"]
        for first, last in _spells([float(at) for at, _ in line["values"]]):
            yield Firing(first, last, name, line["metric"]["severity"], url)


def _spells(times: Sequence[float]) -> Iterator[tuple[float, float]]:
    """Divide rising times where more is missing between two than a late evaluation explains."""
    first = times[0]
    for before, after in pairwise(times):
        if after - before > GAP:
            yield first, before
            first = after
    yield first, times[-1]


def check_alerts(acts: Sequence[Act], story: AlertStory) -> list[Check]:
    """Judge what each act must have made fire, and what it must not; the rest is only reported."""
    unseen = [n for n, (start, end) in enumerate(story.acts, 1) if not _any_within(story.scrapes, start, end)]
    found = [
        Check(
            "Prometheus scraped the service in every act",
            not unseen,
            f"not in act {unseen[0]}" if unseen else f"up for {len(story.scrapes) * INTERVAL:.0f} s",
        )
    ]
    for number, act in enumerate(acts, start=1):
        if act.quiet:
            fired = _names(story.fired_in(number))
            found.append(Check(f"act {number}: no alert fires", not fired, _told(fired)))
        found += [_must_fire(number, alert, story) for alert in act.alerts]
        found += [_must_be_over(number, alert, story) for alert in act.recovers]
    ever = NEVER in _names(story.firings)
    found.append(
        Check(
            f"{NEVER} never fires: a stop in good order pages nobody",
            not ever,
            "it did" if ever else "it did not",
        )
    )
    return found


def _any_within(times: Iterable[float], start: float, end: float) -> bool:
    return any(start <= at < end for at in times)


def _must_fire(number: int, alert: str, story: AlertStory) -> Check:
    fired = [one for one in story.fired_in(number, GRACE) if one.alert == alert]
    began = story.acts[number - 1][0]
    after = f"after {fired[0].first - began:.1f} s" if fired and fired[0].first >= began else "since before"
    return Check(f"act {number}: {alert} fires", bool(fired), after if fired else "it did not")


def _must_be_over(number: int, alert: str, story: AlertStory) -> Check:
    end = story.acts[number - 1][1]
    last = max((one.last for one in story.firings if one.alert == alert), default=0.0)
    over = last < end - GAP
    said = f"over {end - last:.1f} s before its end" if last else "it never fired"
    return Check(f"act {number}: {alert} is over", over, said if over else "it still fires")


def _names(firings: Iterable[Firing]) -> set[str]:
    return {one.alert for one in firings}


def _told(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
