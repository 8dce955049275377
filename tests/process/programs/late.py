"""A main thread that ends before the one that submits: ``late.py BACKEND``. Says what each submit brings."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import prodpool
from prodpool import InstrumentedPool


def build(name: str) -> InstrumentedPool:
    """Build a pool over the backend of this run."""
    if sys.argv[1] == "threads":
        return prodpool.threads(name=name, max_workers=1)
    return InstrumentedPool(ThreadPoolExecutor(1), name=name)


def submit(pool: InstrumentedPool) -> None:
    """Submit one task and say its result, or the refusal."""
    try:
        said = str(pool.submit(pow, 2, 3).result())
    except prodpool.PoolClosedError as error:
        said = str(error)
    sys.stdout.write(f"{said}\n")


def go_on(pools: list[InstrumentedPool]) -> None:
    """Submit while the main thread is there, and after it."""
    submit(pools[0])
    begun.set()
    pools[0].stop()  # ends when the exit has stopped it
    main.join()
    for pool in pools:
        submit(pool)


main, begun = threading.main_thread(), threading.Event()
used, unused = build("used"), build("unused")
threading.Thread(target=go_on, args=([used, unused],)).start()
begun.wait()
