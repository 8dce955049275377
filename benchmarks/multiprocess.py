"""What it costs to write the pools' numbers in prometheus_client's multiprocess mode, once a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.report import Row
from benchmarks.sampling import Spread
from benchmarks.scale import Scale
from prodpool import InstrumentedPool
from prodpool.telemetry.exporters.prometheus_multiprocess import multiprocess_writer

POOLS = 10


def writer(scale: Scale) -> list[Row]:
    """Take the processor time of one write, of ten pools that have just worked, in percent of one core."""
    # The mode is chosen when prometheus_client is imported, so each round is a process.
    shares = [_in_process() for _ in range(scale.processes)]
    experiment = f"{POOLS} pools, written to files"
    return [Row(experiment, "the writer", "CPU", Spread.of(shares), "% of a core", target=1.0)]


def _in_process() -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.multiprocess"],
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder},
            stdout=subprocess.PIPE,
            check=True,
        )
    share: float = json.loads(done.stdout)
    return share


def _measure() -> float:
    pools = [
        InstrumentedPool(ThreadPoolExecutor(2), name=f"pool_{number}", queue_capacity=100)
        for number in range(POOLS)
    ]
    if (files := multiprocess_writer()) is None:
        raise RuntimeError("PROMETHEUS_MULTIPROC_DIR has to be set before prometheus_client is imported")
    spent = []
    for _ in range(20):
        for pool in pools:
            list(pool.map(abs, range(20)))
        began = time.thread_time()
        files.tick()
        spent.append(time.thread_time() - began)
    for pool in pools:
        pool.stop()
    # The first ones also make the files.
    return 100 * sorted(spent)[len(spent) // 2] / files.interval


if __name__ == "__main__":
    print(json.dumps(_measure()))
