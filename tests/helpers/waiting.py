"""Waiting within a bound, and threads whose outcomes can be asked for."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# Seconds after which a test that would hang fails. A machine that is busy takes a while for anything.
PATIENCE = 30.0
# Seconds beyond its deadline that a stop may take where something hangs for PATIENCE or for ever.
LEEWAY = 10.0


def poll(condition: Callable[[], object], seconds: float, every: float = 0.002) -> bool:
    """Return True as soon as ``condition`` holds, or False after ``seconds``."""
    ends = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > ends:
            return False
        time.sleep(every)
    return True


def until(condition: Callable[[], object], patience: float = PATIENCE) -> None:
    """Return as soon as ``condition()`` is true, for states that nothing announces; fail if it never is."""
    assert poll(condition, patience, 0.001), "it never came true"


def until_collected(condition: Callable[[], object]) -> None:
    """Collect garbage until ``condition()`` is true.

    Once may not do: ``gc.collect()`` does nothing while another thread collects, and a thread that has just
    done its work may hold its last object a moment longer.
    """

    def holds() -> object:
        gc.collect()
        return condition()

    until(holds)


class ThreadRunner:
    """Runs functions in threads of their own; their outcomes can be asked for."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def start(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call ``fn(*args)`` in a thread of its own."""
        outcome: Future[Any] = Future()

        def run() -> None:
            try:
                outcome.set_result(fn(*args))
            except BaseException as error:  # noqa: BLE001
                outcome.set_exception(error)

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        return outcome

    def join(self) -> None:
        """Wait until all of them have ended."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
