"""What the tests of backends run in worker processes: functions that a worker can import."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NoReturn

from opentelemetry import trace

from prodpool import WorkerLostError, current_task
from prodpool.workers.in_worker.setup import STACKS_SIGNAL
from tests.helpers.tasks import TaskError as TaskError  # noqa: PLC0414  # others have it from here


class StubbornError(Exception):
    """An exception whose ``__init__`` does not take what it passed on: it does not load again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


class ShyError(Exception):
    """An exception that gives nothing away when it is asked to carry a stack."""

    def with_traceback(self, _: object) -> Any:
        return None


@dataclass(frozen=True)
class FrozenError(Exception):
    """An exception that refuses every assignment."""

    key: str

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenError, (self.key,)


@dataclass(frozen=True)
class PlainFrozenError(Exception):
    """Another, which pickles as exceptions do."""

    key: str


class KeywordedError(LookupError):
    """An exception whose ``__init__`` takes keywords only."""

    def __init__(self, *, table: str, key: int) -> None:
        super().__init__("no such row")
        self.table = table
        self.key = key


class NotThereError(OSError):
    """An exception whose ``__init__`` takes something other than the system's do."""

    def __init__(self, place: str) -> None:
        super().__init__(2, "no such file", "f")
        self.place = place


class EndsError(ImportError):
    """An exception of a kind that keeps more than its arguments."""

    def __init__(self, *, code: int) -> None:
        super().__init__("bye", name="module")
        self.code = code


class LockedError(TaskError):
    """An exception that holds what does not pickle."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def freeze() -> None:
    raise FrozenError("a")


def freeze_plainly() -> None:
    raise PlainFrozenError("a")


def keyworded() -> None:
    raise KeywordedError(table="users", key=7)


def not_there() -> None:
    raise NotThereError("there")


def ends() -> None:
    raise EndsError(code=4)


def lock_up() -> None:
    raise LockedError


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
    raise TaskError("in the worker")


def stubborn() -> NoReturn:
    raise StubbornError(1, 2)


def shy() -> NoReturn:
    raise ShyError


def leave() -> NoReturn:
    raise SystemExit(3)


def die() -> NoReturn:
    os._exit(9)


def fail_twice(path: str) -> None:
    """Fail in the first two processes."""
    sign(path)
    if len(Path(path).read_text().splitlines()) < 3:
        raise TaskError("not yet")


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
    pid = os.getpid()
    with Path(path).open("a", buffering=1) as book:
        book.write(f"begin {number} {pid}\n")
        time.sleep(0.01)
        book.write(f"end {number} {pid}\n")


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


def hang_since(path: str) -> NoReturn:
    """Write down the second of this host's monotonic clock at which it begins, and never end."""
    Path(path).write_text(str(time.monotonic()))
    while True:
        time.sleep(60.0)


def poison(path: str, code: int = 9) -> NoReturn:
    """Leave a line behind, and kill the worker."""
    sign(path)
    os._exit(code)


def raise_worker_lost() -> NoReturn:
    """Fail as a task does that has used a pool which lost its worker."""
    raise WorkerLostError(pool="other", task="deadly")


def exit_with(code: int) -> NoReturn:
    os._exit(code)


def kill_itself(signum: int) -> None:
    if signum != signal.SIGKILL:
        signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    time.sleep(60.0)


def leave_behind(how: str, path: str, code: int | None) -> None:
    """Leave a process behind whose pid is in ``path``, and end this one if there is an exit code for it."""
    if how == "fork":
        pid = os.fork()
        if not pid:
            time.sleep(60.0)
            os._exit(0)
    else:
        # Whatever it could inherit it does.
        pid = subprocess.Popen(["sleep", "60"], close_fds=False).pid  # noqa: S607
    Path(path).write_text(str(pid))
    if code is not None:
        os._exit(code)


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


def asked() -> bool:
    """Tell whether it should end."""
    task = current_task()
    return task is not None and task.cancelled.is_set()


async def fetch(number: int = 7) -> int:
    """Stand for a function that is not to be submitted."""
    return number


def make_fetch() -> Any:
    """Return the coroutine of one, and run nothing."""
    return fetch()


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


def wait_for(go: str) -> None:
    while not Path(go).exists():
        time.sleep(0.002)


def that_waits_for(go: str, workers: int) -> ProcessPoolExecutor:
    """Return worker processes that come up as soon as there is a file ``go``."""
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(workers, context, initializer=wait_for, initargs=(go,))


class Stillborn(ProcessPoolExecutor):
    """Worker processes that die before they are ready, with a ``submit`` of their own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(fn, *args, **kwargs)


def stillborn(workers: int) -> Stillborn:
    return Stillborn(workers, multiprocessing.get_context("forkserver"), initializer=die)


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


def sign_at_once(path: str) -> None:
    """Leave a line behind with the second of this host's monotonic clock at which the task begins."""
    began = time.monotonic()
    with Path(path).open("a") as book:
        book.write(f"{began}\n")


def sign_later(path: str) -> None:
    """Likewise, and take a while."""
    sign_at_once(path)
    time.sleep(0.02)


def span_of(seconds: float) -> tuple[float, float]:
    """Run for so long; return when that began and ended, in seconds of this host's monotonic clock."""
    start = time.monotonic()
    time.sleep(seconds)
    return start, time.monotonic()


def send_hello(end: Connection) -> None:
    end.send("hello")


def sendall_hello(end: socket.socket) -> None:
    end.sendall(b"hello")


def pipe_with_hello() -> Connection:
    ours, theirs = multiprocessing.Pipe()
    ours.send("hello")
    return theirs


def socket_with_hello() -> socket.socket:
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"hello")
    return theirs


def drop_privileges() -> None:
    os.setgid(65534)
    os.setuid(65534)


def close_standard_streams() -> None:
    for descriptor in range(3):
        with suppress(OSError):
            os.close(descriptor)


def use_up_descriptors() -> None:
    """Leave this process no descriptor to open."""
    most = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with suppress(OSError):
        while True:
            os.dup(0)


def change_folder() -> None:
    os.umask(0o777)
    os.chdir("/proc/self")


def use_folder(folder: str) -> None:
    """Have ``folder`` for temporary files."""
    os.environ["TMPDIR"] = tempfile.tempdir = folder


def temporary_folder() -> str | None:
    return tempfile.tempdir


# In this process: what `HangsOnPickling` and `HangsOnLoading` wait for.
gate = threading.Event()


class HangsOnPickling:
    """A value whose pickling takes until the gate is open."""

    def __reduce__(self) -> tuple[Any, ...]:
        gate.wait(60.0)
        return int, ()


class HangsOnLoading:
    """A value whose loading takes until the gate is open."""

    def __reduce__(self) -> tuple[Any, ...]:
        return gated, ()


def gated() -> None:
    gate.wait(60.0)


def hangs_on_loading() -> HangsOnLoading:
    return HangsOnLoading()


class CountsPickling:
    """A value that counts how often it is pickled in this process."""

    count = 0

    def __reduce__(self) -> tuple[Any, ...]:
        CountsPickling.count += 1
        return int, ()


def nap_with(_: object, seconds: float) -> None:
    time.sleep(seconds)
