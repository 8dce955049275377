"""One pool at one moment: the numbers that a scrape, `stats()` and the terminal show alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prodpool.telemetry.ledger import HistogramReading
from prodpool.vocabulary import Reason, Result

BREAKER_STATES = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolReading:
    """Everything that is exported of one pool. Times in seconds; taken under one lock, so it adds up."""

    pool: str
    backend: str
    version: str
    state: str
    workers: int
    queue_capacity: int
    queued: int
    running: int
    submitted: int
    completed: Mapping[Result, int]
    dropped: Mapping[Reason, int]
    dwell: HistogramReading
    duration: HistogramReading
    admission_wait: HistogramReading
    busy_seconds: float
    oldest_queued: float
    longest_running: float
    hung: int
    slow: int
    backend_rebuilds: int
    telemetry_errors: Mapping[str, int]
    breaker: str | None
