"""A process that uses a process pool from before prodpool is imported, and ends while a task hangs.

``beside.py START_METHOD``; see `ending.py` for what it says.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor


def hang(begun: threading.Event) -> None:
    begun.set()
    threading.Event().wait()


def main() -> None:
    """Come to the end."""
    executor = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(sys.argv[1]))
    sys.stdout.write(f"WORKER {executor.submit(os.getpid).result(30)}\n")
    sys.stdout.flush()  # or a forked worker would have it in its buffer, too

    from prodpool import InstrumentedPool

    pool = InstrumentedPool(ThreadPoolExecutor(2), name="test", drain_deadline=0.2)
    begun = threading.Event()
    pool.submit(hang, begun)
    begun.wait(30)
    sys.stdout.write(f"ENDING {time.monotonic()}\n")


if __name__ == "__main__":
    main()
