"""One task: the record that everyone who handles it shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from types import BuiltinMethodType
from typing import TYPE_CHECKING, Any

from prodpool.task.around_call import AroundCall
from prodpool.task.cancellation import CancelToken
from prodpool.task.future import PoolFuture
from prodpool.task.outcomes import Reason
from prodpool.text import short_name, type_name

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from prodpool.admission.permits import Permits


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What ``pool.options(...)`` fixes for the tasks submitted through a view.

    Attributes:
        task: The name in logs and spans; None takes the function's own.
        deadline: Seconds from submit after which the task is dropped unrun; None for never.
        wait: Seconds that submit may wait for a slot; None leaves it to the pool's overload policy.
        idempotent: Whether the task may be run again when its worker was lost.
        timeout: Seconds it may run; None for no limit.
    """

    task: str | None = None
    deadline: float | None = None
    wait: float | None = None
    idempotent: bool = False
    timeout: float | None = None


DEFAULT_OPTIONS = TaskOptions()


class Task:
    """One submitted call, from submit to its result.

    Times are seconds of the pool's monotonic clock. ``prev`` and ``next`` belong to the queue that
    holds the task and are guarded by the dispatcher's lock, as is every state change of ``future``.
    """

    __slots__ = (
        "admitted_at",
        "args",
        "attempt",
        "began_at",
        "next",
        "cancel_requested",
        "context",
        "counted",
        "dropped",
        "expires_at",
        "fn",
        "future",
        "kwargs",
        "options",
        "outcome",
        "packed",
        "permits",
        "prev",
        "recorded",
        "span",
        "cancel_token",
    )

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: Context,
        admitted_at: float,
        options: TaskOptions,
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = context
        self.admitted_at = admitted_at
        self.options = options
        self.expires_at: float | None = None
        self.permits: Permits = ()
        self.span: Span | None = None
        self.recorded = False
        self.prev: Any = None
        self.next: Any = None
        # Why it was dropped, from when that is counted.
        self.dropped: Reason | None = None
        # Whether it is counted as completed, and what its future is to be given then: value and error.
        self.counted = False
        self.outcome: tuple[Any, BaseException | None] | None = None
        self.cancel_requested = False
        self.attempt = 1
        # How it travels to a worker process that it was meant for and has not begun in, or why it cannot: to
        # pickle it again would hand over what it holds open again, which stays open.
        self.packed: bytes | BaseException | None = None
        # When it began, for one that has no worker of its own to say so (see `CurrentTask`).
        self.began_at: float | None = None
        self.cancel_token: CancelToken | None = None
        self.future: PoolFuture[Any]

    @property
    def name(self) -> str:
        """The name for logs and spans; worked out when asked, since most tasks are never named."""
        return self.options.task or callable_name(self.fn, self.args)

    def request_cancel(self) -> None:
        """Ask the running task to end; it may look at ``current_task().cancelled``."""
        # Flag first, then the event: `CurrentTask.cancelled` makes the event, then reads the flag,
        # so whichever comes second sees the other.
        self.cancel_requested = True
        if self.cancel_token is not None:
            self.cancel_token.set()

    def forget_call(self) -> None:
        """Drop the references to the call, for a task that will not run (any more)."""
        self.fn = _nothing
        self.args = ()
        self.kwargs = {}
        self.packed = None


def _nothing() -> None:
    """Stand in for a forgotten call."""


def called_function(fn: Any, args: tuple[Any, ...]) -> Any:
    """Return what a call calls in the end, behind partials, `AroundCall` and ``Context.run``.

    ``asyncio.to_thread`` and gRPC submit the last. No other argument is looked at, and no code of the
    application's runs.
    """
    while True:
        kind = type(fn)  # `isinstance` would ask an object for its class
        if issubclass(kind, partial):
            fn, args = fn.func, (*fn.args, *args)
        elif kind is AroundCall:
            fn = fn.fn
        elif args and kind is BuiltinMethodType and type(fn.__self__) is Context and fn.__name__ == "run":
            fn, args = args[0], args[1:]
        else:
            return fn


def callable_name(fn: Any, args: tuple[Any, ...] = ()) -> str:
    """Name a callable, and never its arguments."""
    fn = called_function(fn, args)
    try:
        return short_name(str(fn.__qualname__))
    except Exception:  # noqa: BLE001  # an instance: without the attribute, or with a __getattr__ that raises
        return type_name(fn)
