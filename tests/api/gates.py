"""Tasks that begin and end when the test says so."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

# Seconds after which a test that forgot to open its gate fails instead of hanging.
PATIENCE = 30.0


class Gate:
    """A task to submit: it reports that it has begun, waits for `open` and returns its argument."""

    def __init__(self) -> None:
        self._began = threading.Semaphore(0)
        self._opened = threading.Event()

    def __call__(self, value: Any = None) -> Any:
        self._began.release()
        if not self._opened.wait(PATIENCE):
            raise AssertionError("the gate was never opened")
        return value

    def wait_begun(self, tasks: int = 1) -> None:
        """Return once ``tasks`` more tasks stand at the gate."""
        for _ in range(tasks):
            assert self._began.acquire(timeout=PATIENCE), "no task came to the gate"

    def open(self) -> None:
        """Let everybody through, now and later."""
        self._opened.set()


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` is true, for states that nothing announces; fail if it never is."""
    ends_at = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < ends_at, "it never came true"
        time.sleep(0.001)


def until_collected(condition: Callable[[], object]) -> None:
    """Collect garbage until ``condition()`` is true.

    Once may not do: ``gc.collect()`` does nothing while another thread collects, and a thread that has just
    done its work may hold its last object a moment longer.
    """

    def holds() -> object:
        gc.collect()
        return condition()

    until(holds)
