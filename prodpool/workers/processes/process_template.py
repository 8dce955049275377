"""How worker processes are started, as the wrapped executor says: the standard library's, or loky's.

The executor itself is left unstarted. The names with an underscore are private, and the only places where
these things are said (docs/decisions, D14; guarded by tests/backends/test_private_names.py).
"""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from typing import Any

from prodpool.workers.base import kill
from prodpool.workers.in_worker.call import Dumps
from prodpool.workers.in_worker.call_loop import WorkerStartup, run_worker
from prodpool.workers.processes.connection import WorkerConnection

# Only here do sockets have time limits of their own, and can be handed to another process by multiprocessing.
POSSIBLE = sys.platform != "win32"


class DaemonicProcessError(RuntimeError):
    """Raised where multiprocessing lets this process have no children, however often it is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTemplate:
    """What a worker process is made of.

    Attributes:
        context: multiprocessing's, or loky's, which has ``Process``.
        dumps: Pickles calls and results.
        initializer: Called in each process before its first task; None for nothing.
        initargs: Its arguments.
        most_tasks: Tasks after which a process is replaced; None for no such bound.
        linger: Seconds after which an idle process ends; None for never.
        options: What ``Process`` takes besides.
        script: The file of the module ``__main__``; None if it has none.
    """

    context: Any
    dumps: Dumps
    initializer: Callable[..., object] | None = None
    initargs: tuple[Any, ...] = ()
    most_tasks: int | None = None
    linger: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    script: str | None = field(default_factory=lambda: getattr(sys.modules.get("__main__"), "__file__", None))

    def in_child(self) -> ProcessTemplate:
        """Return what a worker process is made of in this process, which was forked.

        Its parent's fork server, if it has one, is no child of this process, and there is no second one.

        Raises:
            DaemonicProcessError: This process may not have children.
        """
        _check_may_start()
        if self.context.get_start_method() == "forkserver" and not _can_fork_serve():
            return replace(self, context=multiprocessing.get_context("spawn"))
        return self

    @property
    def forks(self) -> bool:
        """Whether a process begins as a copy of this one."""
        return bool(self.context.get_start_method() == "fork")

    def start(self, pool: str, connection: WorkerConnection) -> Any:
        """Start a process at the other end of ``connection`` and return it.

        Raises:
            DaemonicProcessError: This process may not have children.
            Exception: The system has none to give; or the initializer, say, does not pickle.
        """
        _check_may_start()
        return connection.start(
            partial(
                self._start,
                pool,
                connection,
                WorkerStartup(pool, self.initializer, self.initargs, self.dumps),
            )
        )

    def _start(self, pool: str, connection: WorkerConnection, start: WorkerStartup) -> Any:
        self._knows_script()
        while True:
            process = self.context.Process(
                target=run_worker,
                args=(connection.worker_sockets, start),
                name=f"prodpool-worker-{pool}",
                **self.options,
            )
            process.start()
            if self._knows_script():
                return process
            # Its script has ended at this very moment, and it has hardly begun.
            kill(process)
            process.join()

    def _knows_script(self) -> bool:
        """Tell whether a new process can find the script; have it find it from now on.

        CPython takes its name away when the script has ended; what the exit still has to run may be in there.
        """
        main: Any = sys.modules.get("__main__")
        known = self.script is None or hasattr(main, "__file__")
        if not known:
            main.__file__ = self.script
        return known


def _check_may_start() -> None:
    process = multiprocessing.current_process()
    if __debug__ and process.daemon:  # multiprocessing asserts it, and so does not under -O
        raise DaemonicProcessError(
            f"{process.name} is a daemonic process, and multiprocessing lets it have no children: use a pool "
            "of threads here, or submit from a process that is not daemonic. Children of Celery's prefork "
            "pool and of multiprocessing.Pool are; with `celery worker --pool=threads` there are none"
        )


def _can_fork_serve() -> bool:
    try:
        forkserver.ensure_running()
    except (ChildProcessError, OSError):
        return False
    return True


def of_process_pool(backend: ProcessPoolExecutor) -> ProcessTemplate:
    """Return what a ``concurrent.futures.ProcessPoolExecutor`` would start."""
    private: Any = backend
    return ProcessTemplate(
        context=private._mp_context,  # noqa: SLF001
        dumps=dumps,
        initializer=private._initializer,  # noqa: SLF001
        initargs=private._initargs,  # noqa: SLF001
        most_tasks=private._max_tasks_per_child,  # noqa: SLF001
    )


def of_loky(backend: Any) -> ProcessTemplate:
    """Return what a ``loky.ProcessPoolExecutor``, reusable or not, would start."""
    return ProcessTemplate(
        context=backend._context,  # noqa: SLF001
        dumps=loky_dumps,
        initializer=backend._initializer,  # noqa: SLF001
        initargs=backend._initargs,  # noqa: SLF001
        linger=backend._timeout,  # noqa: SLF001
        options={"env": backend._env} if backend._env else {},  # noqa: SLF001
    )


def dumps(value: Any) -> bytes:
    """Pickle as multiprocessing does, which can hand over connections and sockets."""
    return bytes(ForkingPickler.dumps(value))


def loky_dumps(value: Any) -> bytes:
    """Pickle as loky does, which can hand over functions of ``__main__`` and of no module."""
    return bytes(importlib.import_module("loky.backend.reduction").dumps(value))
