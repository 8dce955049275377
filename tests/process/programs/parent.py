"""A process that starts another with multiprocessing, in which a task hangs when it ends.

``parent.py START_METHOD STATUS FOLDER``; the status is what the child chooses, and what this ends with.
"""

from __future__ import annotations

import atexit
import multiprocessing
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prodpool import InstrumentedPool


def hang(begun: threading.Event) -> None:
    begun.set()
    threading.Event().wait()


def child(status: int, folder: str) -> None:
    pool = InstrumentedPool(ThreadPoolExecutor(2), name="test", drain_deadline=0.2)
    begun = threading.Event()
    pool.submit(hang, begun)
    begun.wait(30)
    atexit.register(Path(folder, "atexit").touch)
    sys.stdout.write(f"ENDING {time.monotonic()}\n")
    if status:
        sys.exit(status)


def main() -> None:
    """Start the child and end as it does."""
    method, status, folder = sys.argv[1:]
    # A pool of the parent's own, which a forked child inherits and has to leave alone.
    with InstrumentedPool(ThreadPoolExecutor(1), name="parents") as pool:
        pool.submit(int).result(30)
        process = multiprocessing.get_context(method).Process(target=child, args=(int(status), folder))  # type: ignore[attr-defined]
        process.start()
        process.join(30)
    if process.is_alive():
        process.kill()
    sys.exit(process.exitcode)


if __name__ == "__main__":
    main()
