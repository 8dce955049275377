"""The injector raises where CPython would: compared with where handlers of real signals run."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from tests.faults.points import Injector, give_back

SECONDS = 0.5


@pytest.fixture(autouse=True, scope="module")
def given_back() -> Iterator[None]:
    """Leave no events on for the tests that come after these."""
    yield
    give_back()


class Scope:
    """A context manager and callable that are Python code."""

    def __init__(self) -> None:
        self.entered = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        self.entered -= 1

    def __call__(self) -> int:
        return self.entered


def sample(lock: threading.Lock) -> int:
    items = [1, 2]
    with lock:
        items.append(3)
    with Scope():
        total = 0
    for each in items:
        total += each
    while total < 8:
        total += 1
    text = f"{total}"
    doubled = [2 * each for each in items]
    scope = Scope()
    return scope() + len(sorted(doubled, key=None)) + max(*doubled, 1) + int(text)


def lines_of_real_signals() -> set[int]:
    """Return the lines of `sample` on which handlers of real signals were seen to run."""
    seen: set[int] = set()

    def handler(_signum: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is sample.__code__:
            seen.add(frame.f_lineno)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00007)
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        sample(threading.Lock())
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    return seen


def interrupted_at(point: int) -> tuple[int, bool]:
    """Return the line on which `sample` was interrupted (0 for none), and whether its lock is held."""
    lock = threading.Lock()
    try:
        with Injector(point, __file__):
            sample(lock)
    except (KeyboardInterrupt, SystemExit) as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is not sample.__code__:
            trace = trace.tb_next
        return 0 if trace is None else trace.tb_lineno, lock.locked()
    return 0, lock.locked()


def count() -> int:
    with Injector(0, __file__) as injector:
        sample(threading.Lock())
    return injector.seen


def test_points_are_those_of_real_signals() -> None:
    """Wherever a handler of a real signal has run, the injector has a point."""
    injected = {interrupted_at(point)[0] for point in range(1, count() + 1)}
    # A jump may be told with the line it comes from or with the one it leads to.
    known = {line + step for line in injected for step in (-1, 0, 1)}
    assert lines_of_real_signals() <= known, sys.version


def test_block_is_left() -> None:
    """An injected interrupt is handled like a real one: the block it comes in is left."""
    assert not any(locked for _, locked in map(interrupted_at, range(1, count() + 1)))


def test_each_point_once() -> None:
    """The same code has the same points, and one beyond the last interrupts nothing."""
    total = count()
    assert total == count()
    assert interrupted_at(total + 1) == (0, False)
