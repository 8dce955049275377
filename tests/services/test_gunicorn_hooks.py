"""What becomes of the tasks of gunicorn's workers when they end, with the hooks of prodpool.integrations."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from prodpool import InstrumentedPool
from prodpool.integrations.gunicorn import child_exit, worker_exit
from tests.helpers.waiting import PATIENCE, until
from tests.services.gunicorn_server import Gunicorn, gunicorn
from tests.services.service import living
from tests.support import ROOT

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


def config_of_guide(function: str, folder: Path, **replaced: str) -> str:
    """Write the configuration that the guide shows, the one with that function; return gunicorn's option."""
    page = (ROOT / "docs" / "guides" / "gunicorn.md").read_text()
    [text] = [
        each
        for each in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        if f"def {function}" in each
    ]
    for name, value in replaced.items():
        text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1
    config = folder / "gunicorn.conf.py"
    config.write_text(text)
    return f"--config={config}"


@contextmanager
def orders(
    folder: Path,
    *options: str,
    workers: int = 1,
    takes: float,
    room: int,
    config: str = HOOKS,
    preload: str = "--preload",
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
    with gunicorn(folder, "orders_app", *options, config, workers=workers, preload=preload, **env) as server:
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
    with orders(tmp_path, workers=WORKERS, takes=0.02, room=20, preload="") as service:
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


def test_hooks_of_ones_own(tmp_path: Path) -> None:
    """The application's own hook calls the one from here, as the guide shows it."""
    config = config_of_guide("worker_exit", tmp_path)
    with orders(tmp_path, takes=0.05, room=20, config=config) as service:
        accepted = [str(number) for number in range(20) if service.server.request(f"?{number}").status == 202]
        [worker] = service.server.workers()
    assert len(accepted) == 20
    assert sorted(service.delivered()) == sorted(accepted)
    assert service.processes_with_gauges() == set()
    assert f"worker {worker} has drained its pools" in service.server.log()


def answers(port: int) -> bool:
    """Tell whether someone serves metrics there."""
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/metrics", retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def submitted(port: int) -> float:
    """Return how many tasks the worker which serves metrics there has put into its pool of threads."""
    page = urllib3.request("GET", f"http://127.0.0.1:{port}/metrics").data.decode()
    found = re.findall(r'^workerpool_submitted_total\{pool="threads"\} (\S+)$', page, re.MULTILINE)
    return sum(map(float, found))


def two_free_ports() -> int:
    """Return the first of two ports in a row that nobody has."""
    for port in range(20_000, 30_000, 2):
        with suppress(OSError), socket.create_server(("", port)), socket.create_server(("", port + 1)):
            return port
    raise AssertionError("there are no two free ports in a row")


def test_a_port_for_each_worker(tmp_path: Path) -> None:
    """Each worker serves its own numbers, with the configuration that the guide shows."""
    first = two_free_ports()
    config = config_of_guide("pre_fork", tmp_path, FIRST_PORT=str(first))
    with gunicorn(tmp_path, "wsgi_app", config, workers=WORKERS) as server:
        ports = range(first, first + WORKERS)
        until(lambda: all(map(answers, ports)))
        asked = 0
        while not all(map(submitted, ports)):
            assert server.get("threads")
            asked += 1
        assert sum(map(submitted, ports)) == asked
        # A worker that takes the place of one that is gone takes its port too.
        os.kill(server.workers()[0], signal.SIGTERM)
        until(lambda: server.log().count("Booting worker") == WORKERS + 1)
        until(lambda: len(server.workers()) == WORKERS)
        until(lambda: all(map(answers, ports)))


def test_the_master_keeps_its_pools(make_pool: Callable[..., InstrumentedPool]) -> None:
    """Gunicorn calls `worker_exit` in the master too, for a worker that somebody else has waited for."""
    pool = make_pool(1)
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    worker_exit(SimpleNamespace(), SimpleNamespace(pid=os.getppid()))
    assert pool.submit(abs, -1).result(PATIENCE) == 1


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
