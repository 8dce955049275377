"""How a call is packed for another process, and how its result is unpacked."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prodpool.errors import UnpicklableError
from prodpool.task.around_call import AroundCall
from prodpool.task.task import Task
from prodpool.text import short_name, type_name
from prodpool.workers.in_worker.call import (
    CallResult,
    Dumps,
    TaskInfo,
    run_pickled,
    standard_dumps,
    this_host,
)
from prodpool.workers.in_worker.context_vars import read_vars


class CallSerializer:
    """Packs by ``dumps``; without it a call goes as it is, for a backend that carries it as it sees fit.

    Function and arguments travel as bytes of our own making: what does not pickle fails here, with a
    clear error for the one task, where the backend would break as a whole or lose the task.
    """

    def __init__(
        self, dumps: Dumps | None, context_vars: Sequence[str] = (), result_dumps: Dumps = standard_dumps
    ) -> None:
        self._dumps = dumps
        self._context_vars = context_vars
        # What the backend is to call with what was packed by `dumps`.
        standard = result_dumps is standard_dumps
        self.caller: Callable[..., CallResult] = (
            run_pickled if standard else partial(run_pickled, dumps=result_dumps)
        )

    def pack(self, pool: str, task: Task) -> tuple[Any, ...]:
        """Return what is called with its header: bytes, or function, arguments and context variables.

        Raises:
            UnpicklableError: Something in the call does not pickle; the message says what.
        """
        values = read_vars(self._context_vars, task.context) if self._context_vars else {}
        if self._dumps is None:
            return task.fn, task.args, task.kwargs, values
        try:
            return (self._dumps((task.fn, task.args, task.kwargs, values)),)
        except Exception as error:
            what = f"{self._unpicklable_part(task, values) or 'the call'} does not pickle"
            raise UnpicklableError(pool=pool, task=task.name, what=what, error=error) from error

    def as_pickling_error(self, pool: str, task: Task, error: BaseException) -> UnpicklableError | None:
        """Return the task's error if ``error`` says that a backend could not carry its call; else None.

        A backend that pickles by itself, in its ``submit``, says so by what its pickler raises: that must not
        be taken for the end of the backend.
        """
        if self._dumps is not None or not isinstance(error, pickle.PickleError | TypeError | AttributeError):
            return None
        values = read_vars(self._context_vars, task.context) if self._context_vars else {}
        culprit = self._unpicklable_part(task, values)
        if culprit is None and not isinstance(error, pickle.PickleError):
            return None
        what = f"{culprit or 'the call'} does not pickle"
        return UnpicklableError(pool=pool, task=task.name, what=what, error=error)

    def unpack(self, outcome: CallResult) -> tuple[Any, BaseException | None]:
        """Return the result, or the exception, that an outcome holds."""
        if outcome.error is not None:
            return None, self._load(outcome, outcome.error)
        return self._load(outcome, outcome.value), None

    def unloadable(self, pool: str, task: Task, error: BaseException) -> UnpicklableError:
        """Return the error for a result that does not load in this process."""
        what = "its outcome does not load in the pool's process"
        lost = UnpicklableError(pool=pool, task=task.name, what=what, error=error)
        lost.__cause__ = error
        return lost

    def _load(self, outcome: CallResult, data: Any) -> Any:
        return pickle.loads(data) if outcome.pickled else data  # noqa: S301  # from our own worker

    def _unpicklable_part(self, task: Task, values: Mapping[str, Any]) -> str | None:
        """Name what does not pickle, by its place and type and never by its value; None if each part does."""
        fn = task.fn
        parts = [("the function", fn.fn if isinstance(fn, AroundCall) else fn)]
        parts += [(f"argument {place}", value) for place, value in enumerate(task.args, start=1)]
        parts += [(f"argument {short_name(name)!r}", value) for name, value in task.kwargs.items()]
        parts += [(f"context variable {name!r}", value) for name, value in values.items()]
        culprits = (f"{what} (a {type_name(value)})" for what, value in parts if self._fails(value))
        return next(culprits, None)

    def _fails(self, value: Any) -> bool:
        try:
            (self._dumps or standard_dumps)(value)
        except Exception:  # noqa: BLE001
            return True
        return False


def task_info(task: Task, now: float) -> TaskInfo | None:
    """Return what a task may ask of itself; None for a first attempt without limits."""
    timeout, expires_at = task.options.timeout, task.expires_at
    if timeout is None and expires_at is None and task.attempt == 1:
        return None
    left = None if expires_at is None else expires_at - now
    return TaskInfo(task.attempt, timeout, left, time.monotonic(), this_host())
