"""What tests share: a log that can be waited for, the kinds of leak, the files of the repository."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import pytest
import structlog

if TYPE_CHECKING:
    from prodpool import InstrumentedPool

ROOT = Path(__file__).resolve().parent.parent
# The package under test: the source tree's, or that of the wheel where the tests run beside it.
PACKAGE = Path(str(getattr(importlib.util.find_spec("prodpool"), "origin", ""))).parent
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}
LEAVES_LONG_OUT = os.environ.get("PRODPOOL_TESTS") == "short" and not IN_CI

# Threads that may outlive a test. One watchdog serves all pools of the process, for as long as it lives. dask
# has one for what takes long in its loops, and a client that lost its scheduler may leave its loop behind.
MAY_STAY = ("prodpool-watchdog", "Dask-Offload_0", "IO loop")
# How long what a test has started may take to end after it, on a machine that has other things to do.
GRACE = 20.0


class MakePool(Protocol):
    """The type of the ``make_pool`` fixture."""

    def __call__(self, workers: int = 2, /, **options: Any) -> InstrumentedPool:
        """Build a pool over a ``ThreadPoolExecutor(workers)`` that the test need not stop."""
        ...


class Logs:
    """Records what is logged, and lets a test wait for it instead of sleeping.

    Hand ``logs.logger`` to a pool. ``entries`` is one dict per line: ``event``, ``log_level``, fields.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        # The same, which no test takes anything out of.
        self.written: list[dict[str, Any]] = []
        # Fields that the test itself has bound to the logger.
        self.bound: set[str] = set()
        self._changed = threading.Condition()  # guards entries and written
        self.logger: Any = structlog.wrap_logger(
            None,
            processors=[self._record],
            wrapper_class=structlog.BoundLogger,
            cache_logger_on_first_use=False,
        )

    def _record(self, _logger: object, level: str, event: Any) -> Any:
        with self._changed:
            self.entries.append({**event, "log_level": level})
            self.written.append({**event, "log_level": level})
            self._changed.notify_all()
        raise structlog.DropEvent

    @property
    def events(self) -> list[str]:
        """The names of all events, in the order in which they came."""
        with self._changed:
            return [entry["event"] for entry in self.entries]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the entries of one event."""
        with self._changed:
            return [entry for entry in self.entries if entry["event"] == event]

    def wait_for(
        self,
        event: str,
        *,
        count: int = 1,
        timeout: float = 20.0,
        where: Callable[[dict[str, Any]], bool] | None = None,
    ) -> dict[str, Any]:
        """Return the ``count``-th entry of ``event`` (that ``where`` accepts) as soon as it is there."""

        def found() -> list[dict[str, Any]]:
            return [one for one in self.entries if one["event"] == event and (where is None or where(one))]

        with self._changed:
            if not self._changed.wait_for(lambda: len(found()) >= count, timeout):
                seen = [entry["event"] for entry in self.entries]
                raise AssertionError(f"no {event!r} (number {count}) within {timeout} s; logged: {seen}")
            return found()[count - 1]


def child_processes() -> set[int]:
    """Return the pids of this process's children that still run; zombies have ended and do not count."""
    if not sys.platform.startswith("linux"):
        return {child.pid for child in multiprocessing.active_children() if child.pid is not None}
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            pids.update(int(pid) for pid in (task / "children").read_text().split())
        except OSError:  # the thread has ended meanwhile
            continue
    return {pid for pid in pids if runs(pid)}


def runs(pid: int) -> bool:
    """Tell whether a process runs; a zombie has ended."""
    return _state(pid) not in {"Z", "X", ""}


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def still_there(
    threads: set[threading.Thread], children: set[int], grace: float = GRACE
) -> tuple[list[threading.Thread], list[int]]:
    """Return the threads and child processes that are new and do not end within ``grace`` seconds."""
    ends_at = time.monotonic() + grace

    def left() -> float:
        return max(0.0, ends_at - time.monotonic())

    started = [
        thread for thread in threading.enumerate() if thread not in threads and thread.name not in MAY_STAY
    ]
    for thread in started:
        if thread.ident is not None:  # one that is just being started cannot be joined
            thread.join(left())
    return [thread for thread in started if thread.is_alive()], sorted(
        _outliving(child_processes() - children, left)
    )


def _outliving(pids: set[int], left: Callable[[], float]) -> set[int]:
    if not hasattr(os, "pidfd_open"):
        return pids
    import select  # poll and pidfd_open come together or not at all

    outliving: set[int] = set()
    for pid in pids:
        try:
            ended = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        if not poll.poll(left() * 1000):
            outliving.add(pid)
        os.close(ended)
    return outliving


def normal(name: str) -> str:
    """Return the one spelling of a package's name. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def missing(what: str, remedy: str) -> NoReturn:
    """End a test that lacks a tool of the system: a failure in CI, where it must be there, else a skip."""
    message = f"{what} is missing; {remedy}"
    if IN_CI:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
