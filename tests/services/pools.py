"""Pools that are built at import, as many services do it.

Those that USED_POOLS names are used at import already, by the process that forks the others.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context, set_executable

import prodpool
from prodpool import InstrumentedPool
from tests.helpers.waiting import PATIENCE

logging.basicConfig(level=logging.INFO)
if python := os.environ.get("WORKER_PYTHON"):
    set_executable(python)
# Room for each thread of a service.
ROOM = 8
POOLS = {
    pool.name: pool
    for pool in (
        InstrumentedPool(ThreadPoolExecutor(2), name="executor", queue_capacity=ROOM),
        InstrumentedPool(ThreadPoolExecutor, max_workers=2, name="factory", queue_capacity=ROOM),
        InstrumentedPool(
            ProcessPoolExecutor(1, mp_context=get_context("spawn")), name="template", queue_capacity=ROOM
        ),
        prodpool.threads(name="threads", max_workers=2, queue_capacity=ROOM),
        prodpool.processes(name="processes", max_workers=1, queue_capacity=ROOM),
    )
}
for used in os.environ.get("USED_POOLS", "").split():
    POOLS[used].submit(abs, -1).result(PATIENCE)


def answer(name: str) -> object:
    """Return what a task of that pool returned, or the error that it or its submission raised."""
    try:
        return POOLS[name].submit(abs, -5).result(PATIENCE)
    except Exception as error:  # noqa: BLE001  # the test wants to know
        return f"{type(error).__name__}: {error}"
