"""What has to be asked because signal handlers and destructors run on top of any frame."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import prodpool
from prodpool.concurrency.interrupts import held_here, start_thread
from tests.helpers.waiting import PATIENCE, ThreadRunner


def free(lock: threading.RLock) -> bool:
    """Tell whether another thread gets the lock at once."""
    crew = ThreadRunner()

    def take() -> bool:
        taken = lock.acquire(blocking=False)
        if taken:
            lock.release()
        return taken

    taken = crew.start(take).result(PATIENCE)
    crew.join()
    return bool(taken)


def test_not_held() -> None:
    """A lock that nobody holds is not held here, and asking does not take it."""
    lock = threading.RLock()
    assert not held_here(lock)
    assert free(lock)


def test_held() -> None:
    """A lock that this thread holds is held here, and asking does not let go of it."""
    lock = threading.RLock()
    with lock:
        assert held_here(lock)
        assert not free(lock)
    assert not held_here(lock)
    assert free(lock)


def test_held_twice() -> None:
    """It is held until it was released as often as it was taken."""
    lock = threading.RLock()
    with lock:
        with lock:
            assert held_here(lock)
        assert held_here(lock)
        assert not free(lock)
    assert not held_here(lock)
    assert free(lock)


def test_held_by_another_thread() -> None:
    """One that another thread holds is not held here; that is said at once, and that thread keeps it."""
    lock, crew = threading.RLock(), ThreadRunner()
    taken, let_go = threading.Event(), threading.Event()

    def hold() -> bool:
        with lock:
            taken.set()
            assert let_go.wait(PATIENCE)
            return held_here(lock)

    holding = crew.start(hold)
    assert taken.wait(PATIENCE)
    assert not held_here(lock)
    assert not free(lock)
    let_go.set()
    assert holding.result(PATIENCE) is True
    crew.join()
    assert free(lock)


class Interrupted(BaseException):
    """What the signal handler of these tests raises."""


@pytest.fixture
def interrupted_starts() -> Iterator[Callable[[], None]]:
    """Return what arms a signal, which comes as ``Thread.start`` is about to take back its lock."""
    lines, first = inspect.getsourcelines(threading.Condition.wait)
    restores = first + max(number for number, line in enumerate(lines) if "_acquire_restore" in line)
    armed = False

    def strike(_signum: int, _frame: FrameType | None) -> None:
        raise Interrupted

    def in_wait(frame: FrameType, event: str, _: object) -> Any:
        nonlocal armed
        if armed and event == "line" and frame.f_lineno == restores:
            armed = False
            signal.raise_signal(signal.SIGUSR1)
        return in_wait

    def trace(frame: FrameType, _event: str, _: object) -> Any:
        return in_wait if frame.f_code is threading.Condition.wait.__code__ else None

    def arm() -> None:
        nonlocal armed
        armed = True
        sys.settrace(trace)

    before = signal.signal(signal.SIGUSR1, strike)
    tracing = sys.gettrace()
    yield arm
    sys.settrace(tracing)
    signal.signal(signal.SIGUSR1, before)
    assert not armed, "the signal never came"


def test_interrupted_start(interrupted_starts: Callable[[], None]) -> None:
    """What a signal handler raised comes out of a thread's start, whatever ``threading`` made of it."""
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(PATIENCE,))
    interrupted_starts()
    with pytest.raises(Interrupted):
        start_thread(thread)
    end.set()
    thread.join(PATIENCE)


def test_interrupted_submit(interrupted_starts: Callable[[], None]) -> None:
    """A submit that starts a worker is interrupted as any call is, and the pool works on."""
    with prodpool.threads(name="interrupted_submit", max_workers=2) as pool:
        interrupted_starts()
        with pytest.raises(Interrupted):
            pool.submit(int)
        sys.settrace(None)
        assert pool.submit(int).result(PATIENCE) == 0


def test_an_older_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lack of threads that is met while an interrupt is being handled stays what it is."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        with pytest.raises(RuntimeError, match="can't start"):
            start_thread(threading.Thread())
