"""The service as its users meet it: a process, HTTP, signals."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import urllib3

from examples.webhook_service.processes import Customers, ServiceProcess
from examples.webhook_service.report import broken_law
from examples.webhook_service.scrape import ScrapeError, Scraper, Snapshot

pytestmark = pytest.mark.slow
DEADLINE = 1.0
StartService = Callable[..., "Running"]


class Running:
    """A service of its own for one test, with its log."""

    def __init__(self, customers: Customers, log: Path, options: tuple[str, ...]) -> None:
        self.process = ServiceProcess(
            customers, f"--log-file={log}", f"--drain-deadline={DEADLINE}", *options
        )
        self._log = log
        self._http = urllib3.PoolManager(maxsize=8, retries=False, timeout=5.0)
        self._scraper = Scraper(self.process.metrics_url, "webhook_delivery")

    def post(self, customer: str = "acme", body: bytes = b"{}", **more: Any) -> urllib3.BaseHTTPResponse:
        url = f"{self.process.url()}/webhooks/{customer}"
        return self._http.request("POST", url, body=body, **more)

    def get(self, path: str, **headers: str) -> urllib3.BaseHTTPResponse:
        return self._http.request("GET", f"{self.process.url('metrics_port')}{path}", headers=headers)

    def until(self, reached: Callable[[Snapshot], bool], timeout: float = 10.0) -> Snapshot:
        """Scrape until ``reached``, and hold every scrape to the law on the way."""
        give_up = time.monotonic() + timeout
        while True:
            scrape = self._scraper.scrape()
            assert scrape is not None
            assert broken_law(scrape) is None
            if reached(scrape):
                return scrape
            assert time.monotonic() < give_up, f"not reached within {timeout} s: {scrape}"
            time.sleep(0.02)

    def last_scrape(self) -> Snapshot:
        """Scrape until nobody answers any more, or a stopped pool has been forgotten; return the last one."""
        last = self.until(lambda _: True)
        with suppress(ScrapeError):
            while (scrape := self._scraper.scrape()) is not None:
                assert broken_law(scrape) is None
                last = scrape
        return last

    def log(self, event: str, **last: object) -> list[dict[str, Any]]:
        """Return the lines of an event once the last has these fields: another thread writes them."""
        give_up = time.monotonic() + 10.0
        while True:
            records = [json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("}")]
            found = [record for record in records if record["event"] == event]
            if (found and last.items() <= found[-1].items()) or time.monotonic() > give_up:
                return found
            time.sleep(0.01)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int | None, float]:
        """Signal it, and return its exit status and the seconds it took."""
        began = time.monotonic()
        self.process.send(number)
        return self.process.wait(DEADLINE + 10), time.monotonic() - began


@pytest.fixture(scope="module")
def everybody() -> Iterator[Customers]:
    """Run the customers' server once for all tests here."""
    customers = Customers()
    yield customers
    customers.close()


@pytest.fixture
def customers(everybody: Customers) -> Customers:
    """Return the customers, all of them healthy."""
    everybody.behave("healthy", 0.0)
    return everybody


@pytest.fixture
def start(customers: Customers, tmp_path: Path) -> Iterator[StartService]:
    """Return a function that starts a service with a log of its own, which ends with the test."""
    numbers = count(1)
    with ExitStack() as stack:

        def start(*options: str) -> Running:
            running = Running(customers, tmp_path / f"service-{next(numbers)}.log", options)
            stack.callback(running.process.close)
            return running

        yield start


def test_a_webhook_is_accepted_and_delivered(start: StartService, customers: Customers) -> None:
    """202 means admitted; the customer then receives the webhook, and the metrics say so."""
    before = customers.counts()["acknowledged"].get("acme", 0)
    service = start("--workers=2")
    assert service.post().status == 202
    service.until(lambda seen: seen.completed["ok"] == 1)
    assert customers.counts()["acknowledged"]["acme"] == before + 1


def test_a_full_pool_answers_429_with_retry_after(start: StartService, customers: Customers) -> None:
    """With one worker taken and one place in the queue, the third webhook is told when to come back."""
    customers.behave("hanging", 0.0, "acme")
    service = start("--workers=1", "--queue-capacity=1", "--hang-for-ever")
    assert service.post().status == 202
    service.until(lambda seen: seen.workers_busy == 1)
    assert service.post().status == 202
    refused = service.post()
    assert (refused.status, refused.json()["reason"]) == (429, "full")
    assert refused.headers["Retry-After"].isdecimal()
    assert int(refused.headers["Retry-After"]) >= 1
    scrape = service.until(lambda seen: seen.dropped["full"] == 1)
    assert (scrape.offered, scrape.submitted, scrape.queue_depth) == (3, 2, 1)


def test_an_open_breaker_answers_503_with_retry_after(start: StartService, customers: Customers) -> None:
    """Failing customers open the breaker; webhooks are then refused at once, until probes close it again."""
    customers.behave("failing", 0.0)
    service = start("--workers=4", "--queue-capacity=64", "--breaker-open-for=3")
    while (answer := service.post()).status == 202:
        time.sleep(0.005)
    assert (answer.status, answer.json()["reason"]) == (503, "breaker_open")
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    service.until(lambda seen: seen.breaker == "open" and seen.dropped["breaker_open"] >= 1)
    customers.behave("healthy", 0.0)
    give_up = time.monotonic() + 15
    while service.until(lambda _: True).breaker != "closed" and time.monotonic() < give_up:
        service.post()
        time.sleep(0.05)
    assert service.post().status == 202
    assert [record["new"] for record in service.log("breaker.changed", new="closed")][-1] == "closed"


@pytest.mark.parametrize(
    ("customer", "body", "more", "status"),
    [
        pytest.param("nobody", b"{}", {}, 404, id="unknown customer"),
        pytest.param("acme", b"x" * 70_000, {}, 413, id="too long a body"),
        pytest.param("acme", b"{}", {"headers": {"Content-Length": "two"}}, 400, id="length no number"),
        pytest.param("acme", iter([b"{}"]), {"chunked": True}, 411, id="no length"),
    ],
)
def test_what_is_no_webhook_never_reaches_the_pool(
    start: StartService, customer: str, body: Any, more: dict[str, Any], status: int
) -> None:
    """A wrong request is refused by the intake and is not offered to the pool."""
    service = start("--workers=1")
    assert service.post(customer, body, **more).status == status
    assert service.until(lambda _: True).offered == 0


def test_metrics_and_probes_answer_while_every_worker_hangs(
    start: StartService, customers: Customers
) -> None:
    """The operations port shares nothing with the work: it answers with all workers and the queue taken."""
    customers.behave("hanging", 0.0, "acme")
    service = start("--workers=2", "--queue-capacity=2", "--hang-for-ever", "--hung-after=0.2")
    service.post()
    assert service.until(lambda seen: seen.hung == 1).longest_running > 0.2
    for _ in range(4):
        service.post()
    service.until(lambda seen: seen.workers_busy == 2 and seen.queue_depth == 2)
    for path, status in {"/healthz": 200, "/readyz": 200, "/nothing": 404}.items():
        assert (service.get(path).status, service.get(path).json()) == (status, {"state": "open"})
    plain = service.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    open_metrics = service.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert open_metrics.data.endswith(b"# EOF\n")
    (record, *_) = service.log("task.still_running")
    assert record["task"] == "deliver.acme"
    assert "delivery.py" in record["stack"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_drains_what_is_queued(
    start: StartService, customers: Customers, number: signal.Signals
) -> None:
    """With time enough, everything accepted is delivered before the service ends with 0."""
    customers.behave("slow", 0.1)
    before = customers.counts()["acknowledged"].get("acme", 0)
    service = start("--workers=4", "--queue-capacity=32")
    assert {service.post().status for _ in range(12)} == {202}
    code, _ = service.end(number)
    assert code == 0
    (report,) = service.log("service.stopped")
    assert (report["drained"], report["dropped"], report["abandoned"]) == (True, 0, [])
    assert customers.counts()["acknowledged"]["acme"] == before + 12


def end_with_a_hung_delivery(start: StartService, backend: str) -> float:
    """Start a service, end it while a delivery hangs, check its account; return how long its end took (s)."""
    service = start("--workers=1", "--queue-capacity=5", "--hang-for-ever", f"--backend={backend}")
    for _ in range(4):
        assert service.post().status == 202
    service.until(lambda seen: seen.workers_busy == 1 and seen.queue_depth == 3)
    code, took = service.end()
    assert code == 0, took
    (report,) = service.log("service.stopped")
    assert (report["drained"], report["dropped"], report["abandoned"]) == (False, 3, ["deliver.acme"])
    (stopped,) = service.log("pool.stopped")
    assert (stopped["dropped"], stopped["abandoned"]) == (3, 1)
    return took


@pytest.mark.parametrize("backend", ["daemon", "executor"])
def test_sigterm_ends_it_in_time_although_a_delivery_hangs_for_ever(
    start: StartService, customers: Customers, backend: str
) -> None:
    """A delivery that never returns holds up neither the drain nor the exit, on either kind of threads."""
    customers.behave("hanging", 0.0, "acme")
    # What holds a service up does so each time; a busy machine makes one late now and then.
    ends = (end_with_a_hung_delivery(start, backend) for _ in range(3))
    assert any(took <= DEADLINE + 1.0 for took in ends)


def test_a_second_signal_changes_nothing(start: StartService, customers: Customers) -> None:
    """A signal that comes during the drain neither cuts it short nor begins another."""
    customers.behave("slow", 0.3)
    before = customers.counts()["acknowledged"].get("acme", 0)
    service = start("--workers=2", "--queue-capacity=8")
    for _ in range(4):
        assert service.post().status == 202
    service.process.terminate()
    service.until(lambda seen: seen.stopped)
    service.process.send(signal.SIGINT)
    service.process.send(signal.SIGTERM)
    assert service.process.wait(DEADLINE + 10) == 0
    assert [record["signal"] for record in service.log("service.stopping")] == ["SIGTERM"]
    (report,) = service.log("service.stopped")
    assert report["drained"]
    assert customers.counts()["acknowledged"]["acme"] == before + 4


def last_numbers(start: StartService) -> tuple[int, int, bool, bool]:
    """Return what the last scrape of a service shows of its end, and whether the service waited for it."""
    service = start("--workers=1", "--queue-capacity=5", "--hang-for-ever")
    for _ in range(3):
        service.post()
    service.until(lambda seen: seen.workers_busy == 1 and seen.queue_depth == 2)
    service.process.terminate()
    last = service.last_scrape()
    assert service.process.wait(DEADLINE + 10) == 0
    (report,) = service.log("service.stopped")
    return last.dropped["shutdown"], last.queue_depth, last.stopped, report["last_scrape"]


def test_the_last_numbers_can_be_scraped(start: StartService, customers: Customers) -> None:
    """What is dropped in the drain's last moment is in a scrape: metrics outlive the pool by one of them."""
    customers.behave("hanging", 0.0, "acme")
    # The service waits a quarter of a second for it, in which a busy machine may not run this test at all.
    assert (2, 0, True, True) in (last_numbers(start) for _ in range(3))


def test_a_service_ends_when_its_parent_does(start: StartService) -> None:
    """With --stop-with-stdin, closing stdin stops it as SIGTERM does."""
    service = start("--workers=1")
    service.process.close(timeout=10)
    assert service.process.exit_code == 0
    assert service.log("service.stopped")
