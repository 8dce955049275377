"""The metrics of all workers of a real gunicorn, while some of them are killed and others recycled."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.waiting import PATIENCE, poll, until
from tests.services.gunicorn_server import Gunicorn, gunicorn

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(240)]
WORKERS, POOL_SIZE = 4, 3
SUBMITTED, GAUGE = "workerpool_submitted_total", "workerpool_workers"


class Counted:
    """A gunicorn that serves `counted_app`, and clients of it who count what they got."""

    def __init__(self, server: Gunicorn) -> None:
        self.log = server.log
        self.get = server.get
        self.workers = server.workers

    def series(self) -> dict[tuple[str, ...], float] | None:
        """Scrape the service."""
        page = self.get("metrics")
        if page is None:
            return None
        return {
            (sample.name, *sorted(f"{label}={value}" for label, value in sample.labels.items())): sample.value
            for family in text_string_to_metric_families(page.decode())
            for sample in family.samples
        }

    def value(self, name: str) -> float | None:
        """Return the sum of all series of one name."""
        found = self.series()
        return None if found is None else sum(each for (of, *_), each in found.items() if of == name)

    def end(self, number: signal.Signals) -> None:
        """Send the oldest worker a signal, unless it has just ended by itself."""
        with suppress(ProcessLookupError):
            os.kill(self.workers()[0], number)

    def load(self, requests: int) -> int:
        """Have eight clients make so many requests; return how many were answered."""
        with ThreadPoolExecutor(8) as clients:
            return sum(page == b"5" for page in clients.map(lambda _: self.get(), range(requests)))


@contextmanager
def counted(folder: Path) -> Iterator[Counted]:
    """Serve until the block ends, which must go well."""
    files = folder / "metrics"
    files.mkdir()
    options = ("--max-requests=200", "--timeout=120", "--config=python:prodpool.integrations.gunicorn")
    env = {"PROMETHEUS_MULTIPROC_DIR": str(files)}
    with gunicorn(folder, "counted_app", *options, workers=WORKERS, **env) as server:
        yield Counted(server)


@contextmanager
def scraping(service: Counted) -> Iterator[list[dict[tuple[str, ...], float]]]:
    """Scrape throughout the block; yields the scrapes."""
    scrapes: list[dict[tuple[str, ...], float]] = []
    over = threading.Event()

    def scrape() -> None:
        while not over.is_set():
            if (found := service.series()) is not None:
                scrapes.append(found)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield scrapes
    finally:
        over.set()
        thread.join(PATIENCE)


def fell(scrapes: list[dict[tuple[str, ...], float]]) -> Counter[str]:
    """Return the counters and parts of histograms that went down between two scrapes."""
    found: Counter[str] = Counter()
    for before, after in pairwise(scrapes):
        for series, value in before.items():
            grows = series[0].endswith(("_total", "_bucket", "_count", "_sum"))
            if grows and after.get(series, -1.0) < value:
                found[" ".join(series)] += 1
    return found


def test_sums_are_exact(tmp_path: Path) -> None:
    """Workers are ended and recycled under load: no counter falls, and in the end no task is missing."""
    with counted(tmp_path) as service:
        with scraping(service) as scrapes:
            answered = service.load(300)
            for _ in range(2):
                service.end(signal.SIGTERM)
                answered += service.load(300)
        until(lambda: service.value(SUBMITTED) == answered)
        assert service.value("workerpool_queue_dwell_seconds_count") == answered
        assert service.value("workerpool_completed_total") == answered
        assert len(scrapes) > 2
        assert fell(scrapes) == {}
        log = service.log()
        assert "Autorestarting worker after current request" in log
        assert log.count("Booting worker") >= WORKERS + 3
        # Of those that are gone no gauge is left; one that has not run a task yet has none.
        # Slower than the writer: a worker that is recycled within a second of its first task has none either.
        assert poll(
            lambda: service.load(8) and service.value(GAUGE) == WORKERS * POOL_SIZE, PATIENCE, every=1.2
        )


def test_killed_workers(tmp_path: Path) -> None:
    """A worker that is killed at once takes what it has counted since its last write with it, and no more."""
    with counted(tmp_path) as service, scraping(service) as scrapes:
        answered = service.load(200)
        until(lambda: service.value(SUBMITTED) == answered)
        for _ in range(2):
            service.end(signal.SIGKILL)
        assert service.load(10) > 0
        until(lambda: (service.value(SUBMITTED) or 0) > answered)
        assert fell(scrapes) == {}
