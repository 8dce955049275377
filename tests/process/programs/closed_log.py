"""A log that is closed when the process ends, while a task runs: ``closed_log.py stdlib|structlog``."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import structlog

from prodpool import InstrumentedPool
from prodpool.testing import flush_telemetry

stream = open(os.devnull, "w")  # noqa: SIM115, PTH123
if sys.argv[1] == "stdlib":
    logging.basicConfig(stream=stream, level=logging.INFO)
else:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream))
begun = threading.Event()
pool = InstrumentedPool(ThreadPoolExecutor(1), name="late")


def work() -> None:
    begun.set()
    main.join(0.05)
    sys.stdout.write("done\n")


main = threading.main_thread()
pool.submit(work)
begun.wait()
flush_telemetry(pool)
stream.close()
