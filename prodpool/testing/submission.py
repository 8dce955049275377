"""What a `RecordingPool` notes of a call that was submitted to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from prodpool.task.future import PoolFuture
from prodpool.task.task import TaskOptions, callable_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call that was submitted to a `RecordingPool`.

    Attributes:
        method: "submit", "submit_wait", "submit_async" (of ``run`` as well) or "map".
        fn: The function.
        args: Its arguments by position.
        kwargs: Its arguments by name.
        options: What ``pool.options(...)`` has set, such as ``TaskOptions(deadline=5.0)``.
        future: What the caller was given; None if the call was refused.
        refusal: The error that the caller was given instead; None if the call was accepted.
    """

    method: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: TaskOptions
    future: PoolFuture[Any] | None
    refusal: BaseException | None

    @property
    def task(self) -> str:
        """The task's name in logs and spans, which is the function's unless the options say another."""
        return self.options.task or callable_name(self.fn, self.args)
