"""prometheus_client's multiprocess mode: a scrape of any process adds up what all of them count, exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, multiprocess
from prometheus_client.multiprocess import MultiProcessCollector

from tests.support import ROOT
from tests.telemetry.scraping import OF_THE_PROCESS, series

pytestmark = pytest.mark.timeout(180)

PROGRAM = Path(__file__).parent / "programs" / "multiprocess.py"
# Their values of a living process are summed, but of a stopped pool they are those of its rest.
GAUGES = ("queue_depth", "queue_capacity", "workers", "workers_busy", "hung_tasks")


class Folder:
    """The files of a service in multiprocess mode."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, way: str, status: int = 0) -> dict[str, Any]:
        """Run a process of the service to its end, and return what it said it had counted."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(self.path), "PYTHONPATH": path}
        command = [sys.executable, "-W", "ignore::DeprecationWarning", str(PROGRAM), way]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=55, check=False)
        assert done.returncode == status, done.stderr
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return told | {"err": done.stderr}

    def scrape(self) -> dict[str, float]:
        """Scrape all files, as any process of the service does."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(self.path))  # type: ignore[no-untyped-call]
        return {
            f"{name} {json.dumps(dict(labels), sort_keys=True)}": each
            for (name, labels), each in series(registry).items()
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Return a folder for the files."""
    path = tmp_path / "metrics"
    path.mkdir()
    return Folder(path)


def grows(name: str) -> bool:
    """Tell whether a series is of a counter or histogram."""
    return name.split(maxsplit=1)[0].endswith(("_total", "_count", "_sum", "_bucket"))


def growing(series: dict[str, float]) -> dict[str, float]:
    """Return the counters and histograms."""
    return {name: value for name, value in series.items() if grows(name)}


def added_up(*processes: dict[str, Any]) -> dict[str, float]:
    """Return the sum of what processes said that they had counted."""
    total: Counter[str] = Counter()
    for each in processes:
        total.update(growing(each["series"]))
    return dict(total)


def but_busy(series: dict[str, float]) -> dict[str, float]:
    """Leave out what grows while a task runs, and while nothing does, and so until its process is killed."""
    grows_on = ("busy_seconds", "scheduling_delay")
    return {name: value for name, value in series.items() if not any(each in name for each in grows_on)}


def test_every_series_of_every_process(folder: Folder) -> None:
    """Counters, sums and buckets of three processes are added up, however each of them ended."""
    processes = [folder.run("stopped"), folder.run("at_exit"), folder.run("killed", -9)]
    assert but_busy(growing(folder.scrape())) == pytest.approx(but_busy(added_up(*processes)))
    assert folder.scrape()['workerpool_submitted_total {"pool": "mail"}'] == 8 + 6 + 6


def test_every_family_is_there(folder: Folder) -> None:
    """One process shows the same series in its files as in a scrape of itself, gauges included."""
    told, found = folder.run("stopped"), folder.scrape()
    assert found.keys() == told["series"].keys()
    assert found['workerpool_process_threads {"pool": "mail"}'] >= 1
    changing = {name for name in found if name.startswith(OF_THE_PROCESS)}
    for name in changing:
        del found[name], told["series"][name]
    assert found == pytest.approx(told["series"])


def test_what_was_lost_in_each_process(folder: Folder) -> None:
    """Tasks offered and abandoned, workers started and lost are added up; offered is admitted and refused."""
    processes = [folder.run("everything_lost") for _ in range(2)]
    found = folder.scrape()
    assert but_busy(growing(found)) == pytest.approx(but_busy(added_up(*processes)))
    counts = {
        name: found[f'workerpool_{name}_total {{"pool": "mail"}}']
        for name in ("offered", "submitted", "abandoned", "workers_started")
    }
    assert counts == {"offered": 20, "submitted": 12, "abandoned": 4, "workers_started": 10}
    assert found['workerpool_dropped_total {"pool": "mail", "reason": "full"}'] == 8
    lost = {
        cause: found[f'workerpool_workers_lost_total {{"cause": "{cause}", "pool": "mail"}}']
        for cause in ("signal", "exit", "start", "backend")
    }
    assert lost == {"signal": 0, "exit": 4, "start": 0, "backend": 0}


def test_gauges_are_those_of_the_living(folder: Folder) -> None:
    """What a killed process was doing is shown until it is marked dead; its counters stay."""
    told = folder.run("killed", -9)
    before = folder.scrape()
    assert before['workerpool_workers_busy {"pool": "mail"}'] == 1
    assert before['workerpool_breaker_state {"pool": "mail", "state": "closed"}'] == 1
    multiprocess.mark_process_dead(told["pid"], str(folder.path))  # type: ignore[no-untyped-call]
    assert but_busy(folder.scrape()) == pytest.approx(but_busy(added_up(told)))


def test_pools_of_one_name(folder: Folder) -> None:
    """Pools of one name are one, one after the other and in another registry."""
    folder.run("one_name")
    assert folder.scrape()['workerpool_submitted_total {"pool": "mail"}'] == 3 + 4 + 1


def test_a_stopped_pool_that_refuses(folder: Folder) -> None:
    """What a pool refuses after its stop is written as well, by the watchdog."""
    folder.run("refusing")
    assert folder.scrape()['workerpool_dropped_total {"pool": "mail", "reason": "closed"}'] == 50


def test_files_of_another_process(folder: Folder) -> None:
    """A process that gets the pid of another one goes on with its counters."""
    processes = [folder.run("same_files") for _ in range(3)]
    assert len(list(folder.path.glob("counter_*.db"))) == 1
    assert growing(folder.scrape()) == pytest.approx(added_up(*processes))


def test_metrics_that_were_closed(folder: Folder) -> None:
    """The gauges of a pool that is exported no more are 0 in its file."""
    folder.run("forgotten")
    found = folder.scrape()
    assert [found[f'workerpool_{name} {{"pool": "mail"}}'] for name in GAUGES] == [0] * len(GAUGES)
    assert found['workerpool_submitted_total {"pool": "mail"}'] == 3


def test_different_buckets(folder: Folder) -> None:
    """Of pools of one name with different buckets no observation is counted twice."""
    folder.run("other_buckets")
    found = folder.scrape()
    assert found['workerpool_task_duration_seconds_count {"pool": "mail"}'] == 9
    assert found['workerpool_task_duration_seconds_bucket {"le": "5.0", "pool": "mail"}'] == 9
    assert found['workerpool_task_duration_seconds_bucket {"le": "1.0", "pool": "mail"}'] == 9


def test_without_pools_there_is_no_thread(folder: Folder) -> None:
    """The thread that writes ends with the last pool, whose numbers stay in the file."""
    folder.run("without_pools")
    assert folder.scrape()['workerpool_submitted_total {"pool": "mail"}'] == 2


def test_forks(folder: Folder) -> None:
    """Each of 25 children that are forked while the parent writes its files counts its own task, and ends."""
    folder.run("forked")
    assert folder.scrape()['workerpool_completed_total {"pool": "mail", "result": "ok"}'] == 26


def test_a_folder_that_goes_away(folder: Folder) -> None:
    """It is counted, and reported once; no task is touched."""
    told = folder.run("folder_goes_away")
    errors = told["series"]['workerpool_telemetry_errors_total {"pool": "mail", "sink": "metrics"}']
    assert errors >= 2
    assert told["series"]['workerpool_completed_total {"pool": "mail", "result": "ok"}'] == 2
    assert told["err"].count("pool.telemetry_error pool=mail sink=metrics") == 1, told["err"]


def test_a_folder_that_is_missing(folder: Folder) -> None:
    """The construction says so, with the value and the way out."""
    told = folder.run("missing_folder")
    assert f"PROMETHEUS_MULTIPROC_DIR={str(folder.path)!r} is no folder" in told["said"]
    assert "create it, empty, before the service starts, or unset the variable" in told["said"]
