"""What waits in a bare executor: ``python -m tools.incidents.bare N`` prints the memory that N tasks take.

A process of its own, for that memory is not given back. Each task holds a record as those of incident 2 do.
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WORKERS = 16
RECORD_BYTES, CAPTURED_BYTES = 6000, 2000


def resident(pid: int | str = "self") -> int:
    """Return the bytes of memory that a process has."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no VmRSS for {pid}")


def main(tasks: int) -> None:
    """Let ``tasks`` wait, with every worker taken, and print what that takes."""
    answered = threading.Event()

    def transform(record: bytes, captured: bytes) -> int:
        answered.wait()
        return len(record) + len(captured)

    executor = ThreadPoolExecutor(WORKERS)
    before = resident()
    for number in range(tasks):
        digit = bytes([number % 256])
        executor.submit(transform, digit * RECORD_BYTES, digit * CAPTURED_BYTES)
    waiting = executor._work_queue.qsize()  # noqa: SLF001  # the executor has no public number of these
    print(json.dumps({"queued": waiting, "bytes": resident() - before}))
    answered.set()
    executor.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
