"""Bytes per waiting task, each sample in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

from benchmarks.contenders import BARE, CONTENDERS, POOL
from benchmarks.report import Row
from benchmarks.sampling import Spread
from benchmarks.scale import Scale
from benchmarks.speed import WORKERS, noop

_PAGE = os.sysconf("SC_PAGE_SIZE")


def bytes_waiting(scale: Scale) -> list[Row]:
    """Measure what a task holds while every worker is busy, its future kept by the caller included."""
    rows = []
    for method, title in (("traced", "tracemalloc"), ("resident", "RSS")):
        bare = Spread.of(_samples(BARE, method, scale))
        for key, contender in CONTENDERS.items():
            spread = bare if key == BARE else Spread.of(_samples(key, method, scale))
            ratio = Spread.of([spread.median / bare.median])
            target = 1.0 if key == POOL else None
            rows.append(Row("memory", contender.title, title, spread, "bytes/task", ratio, target))
    return rows


def _samples(key: str, method: str, scale: Scale) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.memory", key, method, str(scale.waiting)]
    return [
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(scale.processes)
    ]


def _measure(key: str, method: str, tasks: int) -> float:
    read = {"traced": _traced, "resident": _resident}[method]
    opened = threading.Event()
    with CONTENDERS[key].build(WORKERS, tasks) as executor:
        arrived = threading.Barrier(WORKERS + 1)
        for _ in range(WORKERS):
            executor.submit(lambda: (arrived.wait(), opened.wait()))
        arrived.wait()
        if method == "traced":
            tracemalloc.start()
        futures = [executor.submit(noop) for _ in range(10)]
        gc.collect()
        before = read()
        futures += [executor.submit(noop) for _ in range(tasks - 10)]
        gc.collect()
        held = read() - before
        tracemalloc.stop()
        opened.set()
    return held / (tasks - 10)


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
