"""A task's function inside the application's context manager, in a thread of the pool's process."""

from __future__ import annotations

import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from prodpool.task.around_call import AroundCall
from tests.helpers.tasks import TaskError
from tests.helpers.waiting import PATIENCE
from tests.support import MakePool


class Argument:
    """Something that a weak reference can tell of."""


def fails(argument: Argument) -> None:
    """Let go of the argument and fail."""
    del argument
    raise TaskError


class RaisesAgain:
    """Raises the task's error, which leaves a mark in its traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            raise error


def test_an_error_that_is_kept_keeps_no_argument(make_pool: MakePool) -> None:
    """As without a context manager: the frame of the call is reached from that of the task."""
    pool = make_pool(1, around=nullcontext)
    argument = Argument()
    alive = weakref.ref(argument)
    future = pool.submit(fails, argument)
    del argument
    error = future.exception(PATIENCE)
    assert isinstance(error, TaskError)
    pool.stop()
    assert alive() is None


def test_a_traceback_is_the_tasks_own(make_pool: MakePool) -> None:
    """A context manager that raises the task's error again leaves no mark in its traceback."""
    pool = make_pool(1, around=RaisesAgain)
    error = pool.submit(fails, Argument()).exception(PATIENCE)
    assert error is not None
    assert error.__traceback__ is not None
    assert error.__traceback__.tb_frame.f_code is fails.__code__
    assert error.__traceback__.tb_next is None


def test_an_interrupt_leaves_nothing_entered() -> None:
    """Ctrl-C in the main thread never comes between the entry and what makes sure of the exit."""
    lock = threading.Lock()
    reported: list[BaseException] = []
    call = AroundCall(lambda: lock, int, reported.append)

    def call_until_interrupted() -> None:
        # A function: in CPython 3.13 the jump at the end of a loop is not in the `try` around the loop.
        while not reported:
            call()

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts, ends = 0, time.monotonic() + 0.5
    try:
        while time.monotonic() < ends:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002)
                call_until_interrupted()
            except KeyboardInterrupt:
                interrupts += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert not lock.locked()
            reported.clear()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 0


def test_interrupts_go_through() -> None:
    """What is raised for the thread is not kept from it: `report` raises that."""

    def report(error: BaseException) -> None:
        raise error

    @contextmanager
    def interrupted() -> Iterator[None]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        AroundCall(interrupted, int, report)()
