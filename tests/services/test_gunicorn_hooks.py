"""What becomes of the tasks of gunicorn's workers when they end, with the hooks of prodpool.integrations."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from prodpool.integrations.gunicorn import child_exit
from tests.helpers.waiting import PATIENCE, until
from tests.services.gunicorn_server import Gunicorn, gunicorn
from tests.services.service import living

pytestmark = [pytest.mark.once, pytest.mark.long, pytest.mark.timeout(240)]
HOOKS = "--config=python:prodpool.integrations.gunicorn"
RELOADS, WORKERS, CLIENTS = 20, 2, 3


class Orders:
    """A gunicorn that serves `orders_app`, and what it has left in a folder."""

    def __init__(self, server: Gunicorn, record: Path, metrics: Path) -> None:
        self.server = server
        self._record = record
        self._metrics = metrics

    def delivered(self) -> list[str]:
        """Return the orders that were delivered."""
        return self._record.read_text().split() if self._record.exists() else []

    def counted(self, name: str) -> float:
        """Return the sum of all series of one name, over all workers, also those that have ended."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self._metrics))  # type: ignore[no-untyped-call]
        samples = [sample for family in registry.collect() for sample in family.samples]
        return sum(sample.value for sample in samples if sample.name == name)

    def processes_with_gauges(self) -> set[int]:
        """Return the pids of those whose gauges are in a scrape."""
        return {int(path.stem.rpartition("_")[2]) for path in self._metrics.glob("gauge_live*.db")}


@contextmanager
def orders(
    folder: Path, *options: str, workers: int = 1, takes: float, room: int, **more: bool
) -> Iterator[Orders]:
    """Serve until the block ends, which must go well."""
    record, metrics = folder / "record", folder / "metrics"
    metrics.mkdir()
    env = {
        "RECORD": str(record),
        "PROMETHEUS_MULTIPROC_DIR": str(metrics),
        "TAKES": str(takes),
        "ROOM": str(room),
    }
    with gunicorn(folder, "orders_app", *options, HOOKS, workers=workers, **more, **env) as server:
        yield Orders(server, record, metrics)


class Clients:
    """Clients that send one order after another."""

    def __init__(self, server: Gunicorn) -> None:
        self._server = server
        self._over = threading.Event()
        # Written by one thread each: the answers, and the orders that were accepted.
        self.answers: list[Counter[str]] = [Counter() for _ in range(CLIENTS)]
        self.accepted: list[list[str]] = [[] for _ in range(CLIENTS)]

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send throughout the block."""
        with ThreadPoolExecutor(CLIENTS) as threads:
            ended = [threads.submit(self._send, number) for number in range(CLIENTS)]
            try:
                yield
            finally:
                self._over.set()
            for each in ended:
                each.result(PATIENCE)

    def _send(self, client: int) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            order = f"{client}-{number}"
            try:
                status = str(self._server.request(f"?{order}").status)
            except urllib3.exceptions.HTTPError as error:
                status = repr(error)
            self.answers[client][status] += 1
            if status == "202":
                self.accepted[client].append(order)
            else:
                # As its Retry-After says, but sooner: a queue that is full all the time is what is wanted.
                self._over.wait(0.02)


def reload(server: Gunicorn) -> None:
    """Have gunicorn replace its workers, and return when the old ones are gone."""
    old = server.workers()
    server.reload()
    until(lambda: len(server.workers()) == WORKERS and not set(old) & set(server.workers()))


def test_reloads_under_load(tmp_path: Path) -> None:
    """Workers are replaced under load: no request fails, and no task is lost or uncounted."""
    with orders(tmp_path, workers=WORKERS, takes=0.02, room=20, preload=False) as service:
        clients = Clients(service.server)
        with clients.sending():
            for _ in range(RELOADS):
                reload(service.server)
                assert len(living(service.server.pid)) == 1 + WORKERS
        until(lambda: service.processes_with_gauges() <= set(service.server.workers()))
        log = service.server.log()
    answers = sum(clients.answers, Counter())
    accepted = [order for each in clients.accepted for order in each]
    assert set(answers) <= {"202", "429", "503"}, (answers, log)
    assert answers["202"] > RELOADS, answers
    assert answers["429"] > RELOADS, answers
    assert sorted(service.delivered()) == sorted(accepted)
    assert service.counted("workerpool_submitted_total") == len(accepted)
    assert service.counted("workerpool_completed_total") == len(accepted)
    assert log.count("Hang up") == RELOADS
    assert "TIMEOUT" not in log


def test_a_worker_that_gunicorn_aborts(tmp_path: Path) -> None:
    """A request hangs, and gunicorn ends its worker, which drains its pool all the same.

    It ends by itself before the SIGKILL that gunicorn has for workers which stay silent.
    """
    options = ("--threads=1", "--timeout=3")  # the worker is of the class "sync"
    with orders(tmp_path, *options, takes=0.25, room=100) as service, ThreadPoolExecutor(1) as client:
        hangs = client.submit(service.server.request, "hang?60")  # two at once: 7.5 s
        until(lambda: len(service.delivered()) == 60)
        assert hangs.result(PATIENCE).status == 500
        until(lambda: service.server.log().count("Booting worker") == 2)
        log = service.server.log()
    assert log.count("WORKER TIMEOUT") == 1, log
    assert "SIGKILL" not in log
    assert service.counted("workerpool_completed_total") == 60


def test_a_pool_that_takes_longer_than_gunicorn_waits(tmp_path: Path) -> None:
    """What is still queued shortly before gunicorn kills its workers is dropped, and counted."""
    with orders(tmp_path, "--graceful-timeout=3", takes=0.2, room=200) as service:
        for number in range(100):
            assert service.server.request(f"?{number}").status == 202
    completed = service.counted("workerpool_completed_total")
    assert completed + service.counted("workerpool_dropped_total") == 100
    # The two that were being delivered at the deadline were asked to end.
    assert 0 < len(service.delivered()) <= completed <= len(service.delivered()) + 2 < 100


def test_gauges_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The master goes on if the files of a worker cannot be removed, and says so."""
    Path(tmp_path, "gauge_livesum_7.db").mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    lines: list[str] = []
    log = SimpleNamespace(warning=lambda text, *values: lines.append(text % values))
    child_exit(SimpleNamespace(log=log), SimpleNamespace(pid=7))
    assert len(lines) == 1
    assert "worker 7" in lines[0]
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    child_exit(SimpleNamespace(log=log), SimpleNamespace(pid=7))
    assert len(lines) == 1
