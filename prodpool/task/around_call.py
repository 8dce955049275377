"""A task's function inside the context manager that the application has around its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class AroundCall:
    """Calls a function inside a context manager of the application's, whose errors are not the task's.

    Attributes:
        around: Returns a context manager.
        fn: The task's function.
        report: Called with each error of the context manager; raises it if it is meant for the thread. None
            in another process, until what makes the call there has set it.
    """

    __slots__ = ("around", "fn", "report")

    def __init__(
        self,
        around: Callable[[], Any],
        fn: Callable[..., Any],
        report: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.around = around
        self.fn = fn
        self.report = report

    def __reduce__(self) -> tuple[type[AroundCall], tuple[Any, ...]]:
        return AroundCall, (self.around, self.fn)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function inside; return what it returns, raise what it raises."""
        entered, value = False, None
        raised = trace = None
        try:
            # A real `with`: CPython lets no interrupt come between `__enter__` and the block.
            with self.around():
                entered = True
                try:
                    value = self.fn(*args, **kwargs)
                except BaseException as error:
                    # The task's frames refer to this one: who keeps the error keeps what is here.
                    args, kwargs = (), {}
                    raised, trace = error, error.__traceback__
                    raise
        except BaseException as error:  # noqa: BLE001  # `report` raises what is no business of this one
            if error is not raised:
                self._note(error)
        if not entered:
            return self.fn(*args, **kwargs)
        if raised is None:
            return value
        try:
            # As it was: the context manager may have raised it again, or have swallowed it.
            raise BaseException.with_traceback(raised, trace)
        finally:
            del raised, trace

    def _note(self, error: BaseException) -> None:
        if self.report is None:
            raise error
        self.report(error)
