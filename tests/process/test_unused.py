"""A process ends although a pool that it never used wraps an executor with threads of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.process.children import TOO_LONG

PROGRAM = """
import queue, threading, sys
from prodpool import InstrumentedPool

class Started:
    def __init__(self):
        self.calls = queue.SimpleQueue()
        threading.Thread(target=self.run).start()

    def run(self):
        for call in iter(self.calls.get, None):
            call()
        print("shut down")

    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("it is not used")

    def shutdown(self, wait=True):
        self.calls.put(None)

pool = InstrumentedPool(Started(), name="unused", max_workers=1)
if sys.argv[1] == "dropped":
    del pool
"""


@pytest.mark.parametrize("way", ["kept", "dropped"])
def test_a_backend_with_threads_of_its_own(way: str) -> None:
    """Its backend is shut down at the exit, or once the pool is dropped."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, way]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TOO_LONG)
    assert (done.stdout, done.stderr, done.returncode) == ("shut down\n", "", 0)
