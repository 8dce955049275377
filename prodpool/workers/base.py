"""The interfaces between the pool and what runs its tasks, and the record of what that can do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prodpool.config.settings import too_many_workers
from prodpool.text import said, shown, type_name
from prodpool.workers.in_worker.call import Dumps, standard_dumps

if TYPE_CHECKING:
    from prodpool.task.task import Task
    from prodpool.workers.processes.process_template import ProcessTemplate


# How often a task that may be repeated is run at most.
MAX_ATTEMPTS = 3


def is_repeatable(task: Task) -> bool:
    """Tell whether a task that has lost its worker may be run again; nobody waits for a cancelled one."""
    return task.options.idempotent and task.attempt < MAX_ATTEMPTS and not task.cancel_requested


class SupportsSubmit(Protocol):
    """The type of a backend: an `Executor`, or another object with its ``submit``."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run ``fn`` somewhere and return its future."""


class Backend(SupportsSubmit, Protocol):
    """What the pool asks of an executor that it also ends."""

    def shutdown(self, wait: bool = True) -> None:
        """Take no more work; with ``wait``, return once it has ended."""


class Joinable(Protocol):
    """A thread or a process."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""

    def is_alive(self) -> bool:
        """Tell whether it has not ended."""
        ...


class Workers(Protocol):
    """A backend put to work for one pool."""

    def start(self) -> bool:
        """Add one more worker; False when there are enough."""
        ...

    def prepare_resize(self, workers: int) -> int:
        """Prepare to run ``workers`` tasks at once; return how many it takes beyond those.

        Raises:
            ValueError: The backend has no more than fewer.
        """
        ...

    def after_resize(self) -> None:
        """React to a resize, after it has taken effect."""

    def refresh(self) -> None:
        """Update what is known of running tasks."""

    def repair(self, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """Finish what an interrupt or a failed allocation has left undone; called by the watchdog.

        ``call_soon`` makes a call in another thread: the watchdog makes none that may block.
        """

    def owned_threads_or_processes(self) -> Sequence[Joinable]:
        """Return the threads or processes the pool owns; all of them must have ended after shutdown."""
        ...

    def can_kill(self) -> bool:
        """Tell whether a worker that hangs can be killed."""
        ...

    def kill(self) -> None:
        """Kill the workers, if they can be killed."""

    def shutdown(self) -> None:
        """Shut down what the pool owns, the backend too unless it is shared; do not wait."""

    def rebuilds(self) -> int:
        """Return how many backends were built after the first."""
        ...

    def close(self) -> None:
        """Release everything; called once no task is left."""


class ThreadWorkers:
    """What workers in threads of this process have in common.

    Args:
        max_workers: How many the backend has; None for as many as are wanted.
    """

    def __init__(self, max_workers: int | None) -> None:
        self._max_workers = max_workers

    def prepare_resize(self, workers: int) -> int:
        """Return 0: nothing waits in the backend.

        Raises:
            ValueError: It has fewer workers.
        """
        if self._max_workers is not None and workers > self._max_workers:
            raise too_many_workers(workers, self._max_workers)
        return 0

    def after_resize(self) -> None:
        """Nothing was held back."""

    def refresh(self) -> None:
        """Nothing to look for: these workers say themselves what they do."""

    def can_kill(self) -> bool:
        """Return False: a thread cannot be killed."""
        return False

    def kill(self) -> None:
        """Do nothing."""

    def rebuilds(self) -> int:
        """Return 0: threads do not break."""
        return 0

    def close(self) -> None:
        """Nothing is left to close when the last worker is back."""


def prefetch_for(workers: int, size: int | None, prefetch: int) -> int:
    """Return how many tasks a backend of ``size`` workers may have beyond the ``workers`` that are to run.

    None, if it has workers to spare: they would run those as well.
    """
    return 0 if size is not None and workers < size else prefetch


class NotTakenError(Exception):
    """What the future of a call raises that was not handed over after all, because of ``error``."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(shown(error))
        self.error = error


def default_submit(backend: SupportsSubmit, fn: Callable[..., Any], *args: Any) -> Future[Any]:
    """Submit a call as to any executor."""
    future: Future[Any] = backend.submit(fn, *args)
    return future


def check_around_travels(around: Any, abilities: Capabilities) -> None:
    """Check that the pool's ``around`` can be sent to worker processes, where there are any.

    Raises:
        TypeError: It does not pickle.
    """
    if around is None or abilities.dumps is None:
        return
    try:
        abilities.dumps(around)
    except Exception as error:
        raise TypeError(
            f"around={shown(around)} cannot be sent to worker processes ({type_name(error)}: {said(error)}): "
            "pass a function of an importable module"
        ) from error


def shut_down(backend: Any) -> None:
    """Shut a backend down without waiting, if it has ``shutdown``."""
    shutdown = getattr(backend, "shutdown", None)
    if shutdown is not None:
        shutdown(wait=False)


def kill(process: Any) -> None:
    """Kill a worker process; one that has ended, or never began, is left alone."""
    with suppress(Exception):
        try:
            process.kill()
        except AttributeError:  # loky's have no such method
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        kind: Word for it in metrics and logs.
        max_workers: Tasks it can run at once; None where it does not say.
        leased: Whether it lends its threads for long, rather than being handed one task at a time.
        inline: Whether the thread that submits a task is the one that runs it.
        holds_up_exit: Whether a task that never ends keeps the process from ending.
        linger: Seconds that an idle worker is kept before it is given back; 0 where none is lent for long.
        prefetch: Tasks handed over beyond what it can run, so that no worker waits for the next.
        dumps: How calls are pickled for it; None if it is left to carry them as it sees fit.
        result_dumps: How its workers pickle results.
        submit: Hands a call over to it.
        processes: Returns its worker processes, which can be killed; None where there are none to kill.
        template: What its worker processes are made of, so that the pool can start its own; None otherwise.
        lost: What the future of a call raises when the worker was lost and the backend goes on.
        lost_worker: Returns from such an error which worker was lost; None if none was.
    """

    kind: str
    max_workers: int | None
    leased: bool
    holds_up_exit: bool
    inline: bool = False
    linger: float = 0.0
    prefetch: int = 0
    dumps: Dumps | None = None
    result_dumps: Dumps = standard_dumps
    submit: Callable[..., Future[Any]] = default_submit
    processes: Callable[[Any], list[Any]] | None = None
    template: ProcessTemplate | None = None
    worker_lost_errors: tuple[type[BaseException], ...] = ()
    lost_worker: Callable[[BaseException], str | None] = lambda _: None
