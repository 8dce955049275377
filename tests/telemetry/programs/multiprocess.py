"""A process in prometheus_client's multiprocess mode: ``multiprocess.py WAY``.

It prints one JSON object: what a scrape of this process alone shows of each series, as it was last.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.parser import text_string_to_metric_families

import prodpool
from prodpool import BreakerPolicy, InstrumentedPool, PoolClosedError, PoolFullError
from prodpool.telemetry.exporters.prometheus_multiprocess import MultiprocessWriter, multiprocess_writer

PATIENCE = 30.0
FOLDER = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])


def say() -> None:
    """Print what this process counts."""
    series = {
        f"{sample.name} {json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in text_string_to_metric_families(generate_latest(REGISTRY).decode())
        for sample in family.samples
        if sample.name.startswith("workerpool_")
    }
    sys.stdout.write(json.dumps({"pid": os.getpid(), "series": series}) + "\n")
    sys.stdout.flush()


def writer() -> MultiprocessWriter:
    """Return what the watchdog calls once a second."""
    found = multiprocess_writer()
    assert found is not None
    return found


def work(tasks: int, name: str = "mail") -> InstrumentedPool:
    """Do tasks of all sorts over a pool of that name."""
    named = ["divmod"]
    pool = InstrumentedPool(ThreadPoolExecutor(2), name=name, breaker=BreakerPolicy(), task_metrics=named)
    for number in range(tasks):
        pool.submit(divmod, 1, number % 5).exception(PATIENCE)
    pool.submit(time.sleep, 0.02).result(PATIENCE)
    return pool


def stopped() -> None:
    """Stop two pools of different names; the last numbers are written then."""
    for pool in (work(7), work(3, "other")):
        pool.stop(PATIENCE)
    say()


def at_exit() -> None:
    """Leave the pool to the end of the process; what it counts does not change any more."""
    globals()["kept"] = work(5)
    say()


def killed() -> None:
    """Be killed once all is written, with a task running."""
    pool, begun = work(4), threading.Event()

    def run_on() -> None:
        begun.set()
        time.sleep(PATIENCE)

    pool.submit(run_on)
    begun.wait(PATIENCE)
    writer().write("mail")
    say()
    os.kill(os.getpid(), signal.SIGKILL)


def one_name() -> None:
    """Use pools of one name one after the other, and of two registries."""
    for tasks in (2, 3):
        work(tasks).stop(PATIENCE)
        gc.collect()
    other = InstrumentedPool(ThreadPoolExecutor(1), name="mail", registry=CollectorRegistry())
    other.submit(int).result(PATIENCE)
    other.stop(PATIENCE)
    say()


def refusing() -> None:
    """A stopped pool goes on to be written, by the watchdog: 50 tasks are refused after its stop."""
    pool = work(1)
    pool.stop(PATIENCE)
    for _ in range(50):
        try:
            pool.submit(int)
        except PoolClosedError:
            continue
    say()
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and 50.0 not in in_files("counter", '"closed"').values():
        time.sleep(0.01)
    os._exit(0)


def in_files(kind: str, part: str) -> dict[str, float]:
    """Return the numbers that are in a file of this process, by keys that have such a part."""
    (path,) = FOLDER.glob(f"{kind}_{os.getpid()}.db")
    found = MmapedDict.read_all_values_from_file(path)  # type: ignore[no-untyped-call]
    return {key: value for key, value, *_ in found if part in key}


def same_files() -> None:
    """Write into files that another process has had, as one does that gets its pid."""
    values.ValueClass = values.MultiProcessValue(lambda: "again")  # type: ignore[no-untyped-call]
    work(6).stop(PATIENCE)
    say()


def forgotten() -> None:
    """Export a pool no more; its gauges are in no sum then."""
    pool = work(2)
    writer().write("mail")
    pool.close_metrics()
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and any(in_files("gauge_livesum", "workerpool_workers").values()):
        writer().tick()
    say()
    os._exit(0)


def other_buckets() -> None:
    """Use pools of one name whose buckets differ, and write in between."""
    pools = []
    for buckets, tasks in (((0.5, 1.0, 5.0), 4), ((1.0, 2.0, 5.0), 3), ((1.0, 5.0), 2)):
        pools.append(InstrumentedPool(ThreadPoolExecutor(1), name="mail", buckets=buckets))
        for _ in range(tasks):
            pools[-1].submit(int).result(PATIENCE)
        writer().write("mail")
    for pool in pools:
        pool.stop(PATIENCE)
    say()


def without_pools() -> None:
    """Drop the only pool; then no thread of ours is left."""
    pool = work(1)
    pool.stop(PATIENCE)
    del pool
    gc.collect()
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends and threading.active_count() > 1:
        time.sleep(0.01)
    assert threading.active_count() == 1, threading.enumerate()
    say()


def forked() -> None:
    """Fork while the files are being written, again and again; each child counts for itself."""
    parents = prodpool.threads(name="mail", max_workers=1)
    parents.submit(int).result(PATIENCE)
    over = threading.Event()

    def write() -> None:
        while not over.is_set():
            writer().write("mail")

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(25):
        pid = os.fork()
        if not pid:
            signal.alarm(int(PATIENCE))
            parents.submit(int).result(PATIENCE)
            parents.stop(PATIENCE)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"a child ended with {os.waitstatus_to_exitcode(status)}"
    over.set()
    thread.join()
    parents.stop(PATIENCE)
    say()


def everything_lost() -> None:
    """Lose worker processes, refuse tasks and give up tasks that run."""
    processes = InstrumentedPool(ProcessPoolExecutor(1, get_context("fork")), name="mail")
    for status in (3, 4):
        processes.submit(os._exit, status).exception(PATIENCE)
    processes.submit(abs, -1).result(PATIENCE)
    processes.stop(PATIENCE)
    threads, begun = prodpool.threads(name="mail", max_workers=2, queue_capacity=1), threading.Semaphore(0)

    def run_on() -> None:
        begun.release()
        time.sleep(PATIENCE)

    for _ in range(2):
        threads.submit(run_on)
        begun.acquire()
    threads.submit(int)
    for _ in range(4):
        try:
            threads.submit(int)
        except PoolFullError:
            continue
    threads.stop(0.0)
    say()
    os._exit(0)


def folder_goes_away() -> None:
    """Lose the folder: the tasks do not notice, and the pools count it."""
    pool = work(1)
    shutil.rmtree(FOLDER)
    writer().write("mail")
    assert pool.submit(abs, -1).result(PATIENCE) == 1
    pool.stop(PATIENCE)
    say()


def missing_folder() -> None:
    """A folder that is not there is said at construction."""
    FOLDER.rmdir()
    try:
        prodpool.threads(name="mail", max_workers=1)
    except ValueError as error:
        sys.stdout.write(json.dumps({"pid": os.getpid(), "said": str(error), "series": {}}) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    globals()[sys.argv[1]]()
