"""One worker process, as the dispatcher and the watchdog see it."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from prodpool.concurrency.signal_safe_event import SignalSafeEvent
from prodpool.scheduling.worker import Worker
from prodpool.workers.base import kill
from prodpool.workers.processes.connection import WorkerConnection
from prodpool.workers.processes.prefetch import WorkerPrefetch
from prodpool.workers.processes.stack_dumps import stack_of

if TYPE_CHECKING:
    from prodpool.task.task import Task
    from prodpool.workers.processes.worker_losses import WorkerLoss

# Bytes of calls that are sent ahead. What waits in a socket must fit into its buffer: a worker that has an
# outcome to send reads nothing meanwhile.
MAX_BYTES_AHEAD = 1 << 15
# Seconds that a process gets to end whose connection has ended already.
JOIN_TIMEOUT = 5.0
# Seconds after its end in which the system should say how a process has ended.
EXIT_CODE_TIMEOUT = 0.1


class RemoteWorker(Worker):
    """The record of a worker process and of the calls that are on their way to it.

    ``task`` and those ``ahead`` are in the order in which the process runs them. What was sent and is not
    answered is in ``sent``, in the same order.
    ``lock`` guards ``sent``, ``sizes`` and ``calls``; a thread that withdraws calls holds the dispatcher's
    lock already. That one would not do: credits are sent under this one, by a system call.
    """

    __slots__ = (
        "answered",
        "dumps_stacks",
        "calls",
        "forked",
        "connection",
        "distrusted",
        "lock",
        "loss",
        "lost",
        "answered_before",
        "prefetch",
        "process",
        "ready",
        "sent",
        "sizes",
        "timed_out",
        "withdrawals",
    )

    remote = True

    def __init__(self, pool: str, now: Callable[[], float]) -> None:
        super().__init__(pool, now)
        self.ahead = deque()
        self.process: Any = None
        self.connection: WorkerConnection | None = None
        # Whether its process is there and can be sent calls.
        self.ready = False
        # Whether the process may be asked for its stacks.
        self.dumps_stacks = False
        # Set when its process has been forked.
        self.forked = SignalSafeEvent()
        # How many calls the process was sent so far, but for those withdrawn, and how many it has answered.
        # They are numbered from 1 on; a number that was withdrawn is given again.
        self.calls = self.answered = 0
        self.sent: deque[Task] = deque()
        self.sizes: deque[int] = deque()
        # Reentrant, since a finalizer may stop the pool in the midst of it.
        self.lock = threading.RLock()
        # How often calls were withdrawn.
        self.withdrawals = 0
        # How many it had answered when the watchdog checked last.
        self.answered_before = 0
        # The number of the call for whose time limit the process was killed.
        self.timed_out = 0
        # Whether the pool is about to kill the process, since it does not know what it runs.
        self.distrusted = False
        self.prefetch = WorkerPrefetch()
        # What was found out about its process, once that has gone.
        self.loss: WorkerLoss | None = None
        # Whether the watchdog has found the process gone while it had nothing to do.
        self.lost = False

    def stack(self) -> str:
        """Return where its task is right now, innermost frame last, or why that cannot be known."""
        connection = self.connection
        if connection is None or not self.sent:
            return "(no stack: it has not begun)"
        if not self.dumps_stacks:
            return f"(no stack: worker process {self.process.pid} cannot be asked: the signal is taken there)"
        return stack_of(self.process, connection.stacks)

    def location(self) -> str:
        """Name the process that its task runs in."""
        process = self.process
        return "a worker process that is starting" if process is None else f"process {process.pid}"

    def notify_again(self) -> None:
        """Wake the worker once more, in case it was not woken."""
        if not self.sent:
            super().notify_again()

    def request_cancel(self) -> None:
        """Ask its task to end, and any other that the process has begun."""
        super().request_cancel()
        connection = self.connection
        if connection is not None and self.sent:
            connection.cancel(self.calls)

    def forward_cancel(self, task: Task) -> None:
        """Tell the process that ``task`` is to end, if that is the one it runs; never waits."""
        connection, number = self.connection, self.answered + 1
        try:
            # In this order, see `note_answered`. One that is still ahead may be withdrawn, and its number be
            # given to another call: the worker's own thread asks again once it is not.
            running = self.task is task and self.sent[0] is task
        except IndexError:
            running = False
        if connection is not None and running:
            connection.cancel(number, patience=0.0)

    def note_sent(self, task: Task, size: int) -> None:
        """Note that ``task`` is sent next, as a call of so many bytes. The lock is held."""
        self.calls += 1
        self.sizes.append(size)
        self.sent.append(task)

    def note_answered(self) -> None:
        """Note that the first of the calls is answered."""
        answered = self.answered + 1
        self.sizes.popleft()
        self.sent.popleft().packed = None
        # Last: who finds a task first in `sent` has read its number before.
        self.answered = answered

    def withdraw_ahead(self, *, sent: bool) -> int:
        """Withdraw the tasks that it was given ahead and has not begun; return how many these are."""
        ahead, connection = self.ahead, self.connection
        assert ahead is not None  # noqa: S101  # set for good
        if self.loss is not None:
            return 0  # its own thread decides what becomes of them, and has begun to
        with self.lock:
            self.withdrawals += 1
            unsent = self.unsent()
            taken = connection.revoke(len(ahead) - unsent) if sent and connection is not None else 0
            self.forget_sent(taken)
        return unsent + taken

    def forget_sent(self, count: int) -> None:
        """Note that the last calls were withdrawn, or never got there. The lock is held."""
        self.calls -= count
        for _ in range(count):
            self.sent.pop()
            self.sizes.pop()

    def unsent(self) -> int:
        """Return how many of those ahead were not sent, the last ones. Both locks are held."""
        assert self.ahead is not None  # noqa: S101  # likewise
        last = self.sent[-1] if self.sent else None
        count = 0
        for task in reversed(self.ahead):
            if task is last:
                break
            count += 1
        return count

    def bytes_left_ahead(self) -> int:
        """Return how many bytes may still be sent ahead. The lock is held."""
        # The first call is being made: it does not wait in the connection.
        return MAX_BYTES_AHEAD - sum(islice(self.sizes, 1, None))

    def disconnect(self) -> None:
        """End the connection, and so the process; forget both."""
        self.ready = False
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()
        self.sent.clear()
        self.sizes.clear()

    def join_or_kill(self) -> int | None:
        """Wait for the process to end, or kill it; return its exit code, None if that cannot be known."""
        process = self.process
        if not _has_ended(process):
            kill(process)
            _has_ended(process)
        code: int | None = process.exitcode
        return code


def _has_ended(process: Any) -> bool:
    """Wait for a process to end; False if it does not, or if it cannot be asked."""
    until = time.monotonic() + JOIN_TIMEOUT
    while process.is_alive():
        # In steps: it waits for a pipe to end, which a process may hold open that was forked by a task.
        if wait([process.sentinel], 0.05):
            # It has. Another thread of ours is just told how, or the system has forgotten it, as it does
            # where the application ignores SIGCHLD.
            until = min(until, time.monotonic() + EXIT_CODE_TIMEOUT)
            time.sleep(0.005)
        if time.monotonic() >= until:
            return False
    return True


def how_it_ended(pid: int | None, code: int | None) -> str:
    """Say how a process ended, and what usually causes that."""
    which = f"its worker process {pid}"
    if code is None:
        return f"{which} has gone"
    if code >= 0:
        return f"{which} ended with exit code {code}, as one does that calls os._exit"
    name = _signal_name(-code)
    return f"{which} was killed by {name}{_CAUSES.get(name, '')}"


def exit_fields(code: int | None) -> dict[str, object]:
    """Return the fields of a log line that say how a process ended; none if that cannot be known."""
    if code is None:
        return {}
    return {"exit_status": code} if code >= 0 else {"signal": _signal_name(-code)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_CAUSES = {
    "SIGKILL": ", which the system sends when memory runs out",
    "SIGSEGV": ": a fault in an extension module, or a recursion that is too deep",
    "SIGBUS": ": a mapped file was cut short, or its disk is full",
    "SIGABRT": ": an extension module or the interpreter has given up",
    "SIGTERM": ", which asks a process to end",
}
