"""A small pool for services that get more work than there is room for.

Each task leaves a file in the folder DONE.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor

from prodpool import InstrumentedPool
from tests.helpers.waiting import until

POOL = InstrumentedPool(ThreadPoolExecutor(1), name="thumbnails", queue_capacity=2)


def leave_a_file() -> None:
    """Run as a task that is done at once."""
    os.close(tempfile.mkstemp(dir=os.environ["DONE"])[0])


def wait_for_the_end() -> None:
    """Run as a task that is done when the pool is stopped."""
    until(lambda: POOL.stats().state == "draining")
    leave_a_file()


def submit(path: str) -> None:
    """Do what a request asks for: ``/quick`` and ``/waiting`` submit such a task, ``/bug`` fails.

    Raises:
        RejectedError: There is no room.
        ValueError: What any application may raise by mistake.
    """
    if path == "/bug":
        raise ValueError("a bug")
    POOL.submit({"/quick": leave_a_file, "/waiting": wait_for_the_end}[path])
