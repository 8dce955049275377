"""What a Prometheus server would see of a registry."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

Series = tuple[str, frozenset[tuple[str, str]]]
# What is of the process and not of the pool changes by itself, between a scrape and the next.
OF_THE_PROCESS = ("workerpool_process_threads", "workerpool_scheduling_delay_seconds")


def families(registry: CollectorRegistry) -> dict[str, Metric]:
    """Scrape the plain text format and return its families by name; two of one name are an error."""
    found: dict[str, Metric] = {}
    for family in parse_text(generate_latest(registry).decode()):
        assert family.name not in found, f"{family.name} is there twice"
        found[family.name] = family
    return found


def openmetrics_families(registry: CollectorRegistry) -> dict[str, Metric]:
    """Scrape the OpenMetrics format, which its parser holds to the standard, and return its families."""
    text = openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    return {family.name: family for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]


def series(registry: CollectorRegistry) -> dict[Series, float]:
    """Return every sample of a scrape: its name and labels, and its value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(registry).values()
        for sample in family.samples
    }


def of_the_pools(found: dict[Series, float]) -> dict[Series, float]:
    """Leave out what changes while the pools rest."""
    return {each: number for each, number in found.items() if not each[0].startswith(OF_THE_PROCESS)}


def value(registry: CollectorRegistry, name: str, /, pool: str = "test", **labels: str) -> float:
    """Return one sample's value; it must be there."""
    return series(registry)[name, frozenset({"pool": pool, **labels}.items())]
