"""A service whose first pool is over worker processes: ``first.py WAY FOLDER``. It writes its results.

``forked``: over an executor that forks; what it works on is there when the first task is submitted.
``no_folder``: `prodpool.processes`, where the path of the temporary folder is too long for a socket.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import prodpool

WORKERS = 2


# What the application sets up after it has made its pool.
NUMBERS: list[int] = []


def look_up(number: int) -> int:
    return NUMBERS[number] if sys.argv[1] == "forked" else number


def forked() -> prodpool.InstrumentedPool:
    executor = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork"))
    return prodpool.InstrumentedPool(executor, name="first")


def no_folder() -> prodpool.InstrumentedPool:
    folder = Path(sys.argv[2], "x" * 120)
    folder.mkdir()
    tempfile.tempdir = str(folder)
    return prodpool.processes(name="first", max_workers=WORKERS)


def main() -> None:
    with {"forked": forked, "no_folder": no_folder}[sys.argv[1]]() as pool:
        NUMBERS.extend(range(4) if sys.argv[1] == "forked" else ())
        for future in [pool.submit(look_up, number) for number in range(4)]:
            sys.stdout.write(f"{future.result(30.0)}\n")


if __name__ == "__main__":
    main()
