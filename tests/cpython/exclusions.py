"""What the pool is not asked of CPython's suite, or asked otherwise, and why.

A case is left out if it reads a private attribute of the stdlib class which the wrapped executor cannot
lend (`wrapped.LENT`) with the meaning that the case gives it, or if it is about something that the pool
does differently on purpose; then a page of the documentation says what it does instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from fnmatch import fnmatch

from prodpool import UnpicklableError


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why one case is left out.

    Attributes:
        reads: What the case has in its source: the private attribute that it reads, or the option that
            the pool refuses.
        why: What the case takes for granted about it.
        documented: What the guide to worker processes says in its place; None for a private attribute.
    """

    reads: str
    why: str
    documented: str | None = None


_HANDED_OVER = Exclusion(
    reads="._processes",
    why="counts the processes started for calls that do not pickle; the pool hands no such call over",
    documented="A call that cannot be pickled fails alone, with an error that names the part",
)
_ONE_IS_ONE = Exclusion(
    reads="BrokenProcessPool",
    why="kills a process that has nothing to do and expects the next task to fail",
    documented="A worker that dies loses only the task that it was running",
)
_NONE_BEFORE_IT_IS_UP = Exclusion(
    reads="assertGreater(len(others), 0)",
    why="expects a shutdown to find some tasks with processes that are only starting; these are sent none",
)

# By patterns of class and method.
EXCLUSIONS: dict[str, Exclusion] = {
    "ProcessPool*ShutdownTest.test_processes_terminate": _HANDED_OVER,
    "ProcessPool*ExecutorTest.test_saturation": _HANDED_OVER,
    "ProcessPool*ExecutorTest.test_killed_child": _ONE_IS_ONE,
    "ProcessPoolForkserver*.test_cancel_futures": _NONE_BEFORE_IT_IS_UP,
    "ProcessPoolSpawn*.test_cancel_futures": _NONE_BEFORE_IT_IS_UP,
    "ProcessPool*ExecutorTest.test_python_finalization_error": Exclusion(
        reads="_start_joinable_thread",
        why="lets the executor start its first thread and no other; the first is one of the pool's own",
    ),
}


def exclusions_of(name: str) -> Iterator[Exclusion]:
    """Yield why the case of that name is left out; nothing for one that runs."""
    return (exclusion for pattern, exclusion in EXCLUSIONS.items() if fnmatch(name, pattern))


# A loaded machine may not get along with the time that these allow: some seconds for worker processes to
# come up; or none for the backend's semaphores to be gone after a shutdown, which the pool does not wait for.
IN_TIME = frozenset(
    {
        "test_forkserver",
        "test_map_timeout",
        "test_ressources_gced_in_workers",
        "test_spawn",
        "test_timeout",
    }
)

# A pool raises what is a BrokenExecutor where the stdlib's raises the BrokenProcessPool that is one.
BROKEN: type[BaseException] = BrokenExecutor

# What cannot be loaded breaks a stdlib pool, and it says so of the task that raises SystemExit while it is
# pickled as if that had been its own. Here each fails its one task, by an error that names what it was.
INSTEAD: dict[str, type[BaseException]] = {
    "test_exit_at_task_unpickle": UnpicklableError,
    "test_error_at_task_unpickle": UnpicklableError,
    "test_exit_during_result_pickle_on_worker": UnpicklableError,
    "test_error_during_result_unpickle_in_result_handler": UnpicklableError,
    "test_exit_during_result_unpickle_in_result_handler": UnpicklableError,
}


# CPython's FutureTests need no executor: they make the stdlib's futures themselves and set their results.
# They run here on futures of a pool, without these, which are about the stdlib's class and no other.
FUTURES_EXCLUDED = {
    "FutureTests.test_cancel": "compares _state, and has CANCELLED apart from CANCELLED_AND_NOTIFIED",
    "FutureTests.test_exception_with_success": "sets _state and _exception under _condition itself",
    "FutureTests.test_multiple_set_exception": "sets an outcome twice, where a pool's future takes none",
    "FutureTests.test_multiple_set_result": "sets an outcome twice, where a pool's future takes none",
    "FutureTests.test_repr": "compares the words of the stdlib's repr",
    "FutureTests.test_done_callback_raises_already_succeeded": "compares the words of the stdlib's log line",
}
