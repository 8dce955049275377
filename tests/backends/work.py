"""What the tests of backends run in worker processes: functions that a worker can import."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

from opentelemetry import trace

from prodpool import current_task
from prodpool.workers.child import STACKS_SIGNAL


class BoomError(Exception):
    """What a failing task raises here."""


class StubbornError(Exception):
    """An exception whose ``__init__`` does not take what it passed on: it does not load again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class ShyError(Exception):
    """An exception that gives nothing away when it is asked to carry a stack."""

    def with_traceback(self, _: object) -> Any:
        return None


class DoesNotLoad:
    """A value that pickles and does not load again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


class DoesNotPickle:
    """A value that does not pickle."""

    def __reduce__(self) -> NoReturn:
        raise pickle.PicklingError("not this one")


class ExitsOnPickling:
    """A value whose pickling is cut short by what is no ``Exception``, as Ctrl-C may cut it short."""

    def __reduce__(self) -> NoReturn:
        raise KeyboardInterrupt


class ExitsOnLoading:
    """A value that would end the process that loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return leave, ()


def _refuse() -> NoReturn:
    raise pickle.UnpicklingError("not this one")


request_id: ContextVar[object] = ContextVar("request_id")
unasked: ContextVar[str] = ContextVar("unasked", default="nothing")


def seen() -> tuple[object, str]:
    """Return the context variables of this module, as they are here."""
    return request_id.get("nothing"), unasked.get()


def pid() -> int:
    return os.getpid()


def boom() -> NoReturn:
    raise BoomError("in the worker")


def stubborn() -> NoReturn:
    raise StubbornError(1, 2)


def shy() -> NoReturn:
    raise ShyError


def leave() -> NoReturn:
    raise SystemExit(3)


def die() -> NoReturn:
    os._exit(9)


def die_at(go: str) -> NoReturn:
    """End the process as soon as there is a file ``go``."""
    while not Path(go).exists():
        time.sleep(0.002)
    os._exit(9)


def give(what: str) -> object:
    kinds: dict[str, Callable[[], object]] = {
        "lock": threading.Lock,
        "unloadable": DoesNotLoad,
        "unpicklable": DoesNotPickle,
        "exits on loading": ExitsOnLoading,
    }
    return kinds[what]()


def echo(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def began() -> float:
    """Return the second of this host's monotonic clock at which the task began."""
    return time.monotonic()


def say(path: str) -> None:
    """Make a file with this process's pid in it, which nobody ever sees without."""
    unfinished = Path(f"{path}.new")
    unfinished.write_text(str(os.getpid()))
    unfinished.replace(path)


def record(path: str, number: int) -> None:
    """Write down that the task begins, and that it ends."""
    with Path(path).open("a", buffering=1) as book:
        book.write(f"begin {number}\n")
        time.sleep(0.01)
        book.write(f"end {number}\n")


def sign(path: str) -> None:
    """Leave a line behind, to be counted."""
    with Path(path).open("a") as book:
        book.write(f"{os.getpid()}\n")


def hold(path: str, go: str, seconds: float = 60.0) -> int:
    """Say that it runs by making ``path``, run until there is a file ``go``, and return the pid."""
    mark, began = Path(path), time.monotonic()
    say(path)
    while not Path(go).exists() and time.monotonic() < began + seconds:
        time.sleep(0.002)
    time.sleep(0.005)  # so that one too many would be seen beside it
    mark.with_suffix(".ran").write_text(f"{began} {time.monotonic()}")
    mark.unlink()
    return os.getpid()


def linger() -> int:
    """Have this process hang when it is to end, and return its pid."""
    Finalize(None, time.sleep, args=(60.0,), exitpriority=10)
    return os.getpid()


def hang(path: str) -> NoReturn:
    """Say that it runs by making ``path``, and never end."""
    say(path)
    while True:
        time.sleep(60.0)


def poison(path: str) -> NoReturn:
    """Leave a line behind, and kill the worker."""
    sign(path)
    os._exit(9)


def slowly(value: int) -> int:
    time.sleep(0.005)
    return value


def span() -> tuple[int, int]:
    """Return the ids of the trace and of the span that are current here."""
    context = trace.get_current_span().get_span_context()
    return context.trace_id, context.span_id


def late() -> tuple[str, str, int, float | None]:
    """Wait until it should end, and return what it may know of itself."""
    task = current_task()
    assert task is not None
    assert task.cancelled.wait(20.0)
    return task.name, task.pool, task.attempt, task.remaining


def until_asked(path: str) -> bool:
    """Say that it runs by making ``path``, and end when asked to."""
    say(path)
    task = current_task()
    assert task is not None
    while not task.cancelled.is_set():
        time.sleep(0.002)
    return True


def attempt(path: str, deadly: int) -> int:
    """Kill the worker in the first ``deadly`` attempts; return the number of this one."""
    task = current_task()
    assert task is not None
    sign(path)
    if task.attempt <= deadly:
        os._exit(9)
    return task.attempt


def nested() -> bool:
    """Tell whether there is a task here any more, after the one that runs this has ended."""
    return current_task() is not None


def take_signal() -> None:
    assert STACKS_SIGNAL is not None
    signal.signal(STACKS_SIGNAL, signal.SIG_IGN)


def with_signal_taken(workers: int) -> ProcessPoolExecutor:
    """Return worker processes that have a use of their own for the signal that asks for stacks."""
    return ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), initializer=take_signal)


def die_late(seconds: float) -> NoReturn:
    """Run for so long, then end the process."""
    time.sleep(seconds)
    os._exit(9)


class PicklesOnce:
    """A value that pickles the first time only."""

    _times = 0

    def __reduce__(self) -> tuple[Any, ...]:
        PicklesOnce._times += 1
        if PicklesOnce._times > 1:
            raise pickle.PicklingError("not any more")
        return float, ("0.2",)


def sign_with(path: str, number: int) -> int:
    """Leave a line with ``number`` behind, and return it."""
    with Path(path).open("a") as book:
        book.write(f"{number}\n")
    return number
