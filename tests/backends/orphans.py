"""A service over worker processes, to be killed: ``python -m tests.backends.orphans KIND FOLDER``."""

from __future__ import annotations

import sys
from concurrent.futures import wait
from pathlib import Path

import loky
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import InstrumentedPool
from tests.backends import work

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "loky":
        pool = InstrumentedPool(loky.ProcessPoolExecutor(1), name="orphans", registry=CollectorRegistry())
    else:
        pool = prodpool.processes(max_workers=2, start_method=kind, name="orphans")
    pool.options(timeout=60.0).submit(int).result()
    if kind != "loky":
        # So that one is idle beside the one that hangs.
        wait([pool.submit(work.slowly, number) for number in range(2)])
    pool.submit(work.hang, str(folder / "hangs"))
    sys.stdin.read()
