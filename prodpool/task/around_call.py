"""A task's function inside the context manager that the application has around its tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prodpool.text import type_name


class AroundCall:
    """Calls a function inside a context manager of the application's, whose errors are not the task's.

    Args:
        around: Returns a context manager.
        fn: The task's function.
        report: Called with each error of the context manager. In another process they are kept in
            ``errors``, for the pool's process to report.
    """

    __slots__ = ("_report", "around", "errors", "fn")

    def __init__(
        self,
        around: Callable[[], Any],
        fn: Callable[..., Any],
        report: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.around = around
        self.fn = fn
        self.errors: list[BaseException] = []
        self._report = self.errors.append if report is None else report

    def __reduce__(self) -> tuple[type[AroundCall], tuple[Any, ...]]:
        return AroundCall, (self.around, self.fn)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function inside; return what it returns, raise what it raises."""
        leave = self._enter()
        try:
            value = self.fn(*args, **kwargs)
        except BaseException as error:
            self._leave(leave, error)
            raise
        self._leave(leave, None)
        return value

    def _enter(self) -> Callable[..., Any] | None:
        """Enter the context manager and return its ``__exit__``; None if it cannot be entered."""
        try:
            manager = self.around()
            kind = type(manager)
            if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
                raise TypeError(f"around returned a {type_name(manager)}, which is not a context manager")  # noqa: TRY301
            leave = manager.__exit__
            manager.__enter__()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  # the task runs, whatever that is
            self._report(error)
            return None
        return leave  # type: ignore[no-any-return]

    def _leave(self, leave: Callable[..., Any] | None, error: BaseException | None) -> None:
        """Leave the context manager; what it returns is ignored, since the error stays the task's."""
        if leave is None:
            return
        try:
            if error is None:
                leave(None, None, None)
            else:
                leave(type(error), error, error.__traceback__)
        except KeyboardInterrupt:
            raise
        except BaseException as its_own:  # noqa: BLE001
            if its_own is not error:
                self._report(its_own)
        finally:
            del error
