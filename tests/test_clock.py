"""The two clocks."""

from __future__ import annotations

import threading
import time

import pytest

from prodpool.concurrency.clock import Clock, ManualClock, SystemClock


def test_manual_clock_moves_only_when_told() -> None:
    """A manual clock stands still between advances."""
    clock: Clock = ManualClock(5.0)
    assert clock.monotonic() == 5.0
    assert isinstance(clock, ManualClock)
    assert clock.advance(2.5) == clock.monotonic() == 7.5
    assert repr(clock) == "ManualClock(7.5)"


def test_manual_clock_refuses_to_go_back() -> None:
    """A negative advance is an error that says so."""
    with pytest.raises(ValueError, match=r"seconds=-1: .* cannot go back"):
        ManualClock().advance(-1)


def test_manual_clock_loses_no_advance() -> None:
    """Advances from several threads add up."""
    clock = ManualClock()
    threads = [threading.Thread(target=lambda: [clock.advance(1.0) for _ in range(2_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() == 8_000


def test_system_clock_is_the_monotonic_one() -> None:
    """The system clock reads time.monotonic."""
    clock: Clock = SystemClock()
    before = time.monotonic()
    assert before <= clock.monotonic() <= time.monotonic()
