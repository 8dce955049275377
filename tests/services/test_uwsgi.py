"""Pools that an application builds at import, behind a real uWSGI that forks its workers in C after that."""

from __future__ import annotations

import itertools
import signal
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.helpers.waiting import PATIENCE, until
from tests.services.service import POOLS, Service, answers, listening, service
from tests.support import ROOT

pytestmark = [
    pytest.mark.once,
    pytest.mark.long,
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a fork in C is noticed on Linux only"),
]
WORKERS, THREADS = 2, 4
AT_ONCE = WORKERS * THREADS


class Served:
    """A uWSGI that serves `wsgi_app`."""

    def __init__(self, served: Service, folder: Path, port: int) -> None:
        self.log = served.lines
        self._folder = folder
        self._url = f"http://127.0.0.1:{port}"
        self._http = urllib3.PoolManager(maxsize=AT_ONCE, retries=False, timeout=PATIENCE)

    def order(self, number: int) -> bool:
        """Leave an order to `orders_app`; tell whether it was accepted."""
        try:
            answer = self._http.request("GET", f"{self._url}/?{number}", headers={"Connection": "close"})
        except urllib3.exceptions.HTTPError:
            return False  # uWSGI's http-socket resets a connection now and then, with a pool or without
        return answer.status == 202

    def answers(self, pool: str) -> list[object]:
        """Return what a pool answers to each thread of each worker."""
        place = self._folder / pool

        def get(_: int) -> int:
            url = f"{self._url}/{pool}?place={place}&count={AT_ONCE}"
            return self._http.request("GET", url, headers={"Connection": "close"}).status

        with ThreadPoolExecutor(AT_ONCE) as clients:
            assert list(clients.map(get, range(AT_ONCE))) == [200] * AT_ONCE
        found, processes = answers(place, AT_ONCE)
        assert len(processes) == WORKERS
        return found


@contextmanager
def served(
    folder: Path,
    *options: str,
    application: str = "wsgi_app",
    end: signal.Signals = signal.SIGKILL,
    **env: str,
) -> Iterator[Served]:
    """Serve until the block ends."""
    command: list[str | Path] = [Path(sysconfig.get_path("scripts"), "uwsgi"), *options]
    command += [
        "--master",
        f"--processes={WORKERS}",
        "--enable-threads",
        f"--threads={THREADS}",
        "--no-orphans",
    ]
    command += ["--need-app", f"--pythonpath={ROOT}", f"--module=tests.services.{application}:application"]
    # Started by uWSGI itself, a worker process would be another uWSGI.
    env |= {"WORKER_PYTHON": sys.executable}
    with listening() as (descriptor, port):
        command.append(f"--http-socket=fd://{descriptor}")
        with service(command, folder / "uwsgi.log", env, [descriptor], end) as started:
            started.until_logged(f"spawned uWSGI worker {WORKERS}")
            yield Served(started, folder, port)


def test_pools_built_before_the_fork(tmp_path: Path) -> None:
    """Every pool that was not used before the fork works in each worker."""
    with served(tmp_path) as uwsgi:
        for pool in POOLS:
            assert uwsgi.answers(pool) == [5] * AT_ONCE
        assert uwsgi.log("ERROR") == []


def test_pools_used_before_the_fork(tmp_path: Path) -> None:
    """They start anew in each worker where they can, and else say why not, if Python's fork hooks are run.

    Without them the interpreter itself may hang in a worker (unbit/uwsgi 2387).
    """
    with served(tmp_path, "--py-call-uwsgi-fork-hooks", USED_POOLS=" ".join(POOLS)) as uwsgi:
        for pool in POOLS:
            found = uwsgi.answers(pool)
            if pool == "executor":
                assert len(found) == AT_ONCE
                assert all(str(answer).startswith("PoolForkedError: pool 'executor'") for answer in found)
            else:
                assert found == [5] * AT_ONCE
        until(lambda: len(uwsgi.log("ERROR")) >= WORKERS)  # written by threads of their own
        lines = uwsgi.log("ERROR")
        assert len(lines) == WORKERS
        assert all(line.startswith("ERROR:prodpool:pool.forked pool=executor") for line in lines)


def test_the_end(tmp_path: Path) -> None:
    """The workers drain their pools when uWSGI ends, and can take their gauges out of the scrape."""
    record, metrics = tmp_path / "record", tmp_path / "metrics"
    metrics.mkdir()
    env = {"RECORD": str(record), "PROMETHEUS_MULTIPROC_DIR": str(metrics), "GAUGES_END_AT_EXIT": "yes"}
    env |= {"TAKES": "0.1", "ROOM": "100"}
    with served(tmp_path, application="orders_app", end=signal.SIGINT, **env) as uwsgi:
        taken = (str(number) for number in range(1000) if uwsgi.order(number))
        accepted = set(itertools.islice(taken, 40))
    assert len(accepted) == 40
    delivered = record.read_text().split()
    assert accepted <= set(delivered)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(metrics))  # type: ignore[no-untyped-call]
    labels = {"pool": "orders", "result": "ok"}
    assert registry.get_sample_value("workerpool_completed_total", labels) == len(delivered)
    assert list(metrics.glob("gauge_live*.db")) == []
