"""Reading ``/metrics``: one scrape becomes one frozen `Snapshot`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import urllib3
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

ACCEPT = "application/openmetrics-text; version=1.0.0"
# These reasons drop what was already submitted; all others refuse it.
AFTER_ADMISSION = ("expired", "cancelled", "shutdown")


class ScrapeError(Exception):
    """Raised when ``/metrics`` answers, but not with what a pool exports."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram as exported: cumulative counts by upper bound in seconds, the last one infinite."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    def since(self, before: Buckets) -> Buckets:
        """Return what was observed after ``before``."""
        return Buckets(
            self.bounds, tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        )

    def quantile(self, q: float) -> float | None:
        """Estimate a quantile in seconds as PromQL's `histogram_quantile` does; None when empty."""
        total = self.counts[-1] if self.counts else 0.0
        if total <= 0:
            return None
        rank = q * total
        low, below = 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return low


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The metrics of one pool in one scrape; ``at`` is the scraper's monotonic clock in seconds."""

    at: float
    submitted: int
    completed: Mapping[str, int]
    dropped: Mapping[str, int]
    queue_depth: int
    queue_capacity: int
    workers: int
    workers_busy: int
    dwell: Buckets
    duration: Buckets
    oldest_queued: float
    longest_running: float
    hung: int
    breaker: str
    stopped: bool
    exemplars: int

    @property
    def offered(self) -> int:
        """Tasks that were submitted or refused by submit."""
        return self.submitted + sum(n for reason, n in self.dropped.items() if reason not in AFTER_ADMISSION)


class _Series:
    """The samples of one pool by name, and by one further label."""

    def __init__(self, text: str, pool: str) -> None:
        self._pool = pool
        self._by_name: dict[str, list[Sample]] = {}
        families: Iterable[Metric] = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for family in families:
            for sample in family.samples:
                if sample.labels.get("pool") == pool:
                    self._by_name.setdefault(sample.name, []).append(sample)

    def samples(self, name: str) -> list[Sample]:
        try:
            return self._by_name[f"workerpool_{name}"]
        except KeyError:
            raise ScrapeError(f"no workerpool_{name} of pool {self._pool!r} in the scrape") from None

    def number(self, name: str) -> float:
        return float(self.samples(name)[0].value)

    def by(self, name: str, label: str) -> dict[str, int]:
        return {sample.labels[label]: int(sample.value) for sample in self.samples(name)}

    def buckets(self, name: str) -> Buckets:
        pairs = sorted((float(one.labels["le"]), float(one.value)) for one in self.samples(f"{name}_bucket"))
        return Buckets(tuple(bound for bound, _ in pairs), tuple(count for _, count in pairs))

    def breaker(self) -> str:
        samples: Iterable[Sample] = self._by_name.get("workerpool_breaker_state", ())
        return next((sample.labels["state"] for sample in samples if sample.value), "none")

    def exemplars(self) -> int:
        return sum(sample.exemplar is not None for samples in self._by_name.values() for sample in samples)


def parse(text: str, pool: str, at: float) -> Snapshot:
    """Read an OpenMetrics exposition.

    Args:
        text: The whole body.
        pool: Which pool's series to take.
        at: When it was scraped, for rates.

    Raises:
        ScrapeError: A series is missing.
    """
    series = _Series(text, pool)
    return Snapshot(
        at=at,
        submitted=int(series.number("submitted_total")),
        completed=series.by("completed_total", "result"),
        dropped=series.by("dropped_total", "reason"),
        queue_depth=int(series.number("queue_depth")),
        queue_capacity=int(series.number("queue_capacity")),
        workers=int(series.number("workers")),
        workers_busy=int(series.number("workers_busy")),
        dwell=series.buckets("queue_dwell_seconds"),
        duration=series.buckets("task_duration_seconds"),
        oldest_queued=series.number("oldest_queued_seconds"),
        longest_running=series.number("longest_running_seconds"),
        hung=int(series.number("hung_tasks")),
        breaker=series.breaker(),
        stopped=series.number("stopped") > 0,
        exemplars=series.exemplars(),
    )


class Scraper:
    """Fetches ``/metrics`` over one kept connection; used by one thread."""

    def __init__(self, url: str, pool: str) -> None:
        """Prepare to scrape ``url`` for the series of ``pool``."""
        self._url = url
        self._pool = pool
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=1.0, read=3.0))

    def scrape(self) -> Snapshot | None:
        """Fetch and parse; None when nobody answers (any more)."""
        try:
            answer = self._http.request("GET", self._url, headers={"Accept": ACCEPT})
        except urllib3.exceptions.HTTPError:
            return None
        if answer.status != 200 or not answer.headers["Content-Type"].startswith(
            "application/openmetrics-text"
        ):
            raise ScrapeError(
                f"{self._url} answered {answer.status} with {answer.headers.get('Content-Type')}"
            )
        return parse(answer.data.decode(), self._pool, time.monotonic())
