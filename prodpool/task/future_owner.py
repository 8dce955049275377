"""What a future needs of the pool that made it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

# Has another thread make a call.
CallbackRunner = Callable[[Callable[[], None]], object]


class FutureOwner(Protocol):
    """What a future needs of the pool it came from. The task is the pool's affair; here it is opaque."""

    pool: str
    """The pool's name."""

    @property
    def lock(self) -> AbstractContextManager[object, bool | None]:
        """What guards the state of its futures; reentrant."""
        ...

    def cancel(self, task: Any) -> bool:
        """Take a queued task out of the pool for good; False when it is too late, and it is told to end."""
        ...

    def run_inline(self, task: Any) -> None:
        """Run ``task`` in the calling thread if that is a worker of this pool and it still waits."""

    def callback_failed(self, fn: Callable[..., object], error: BaseException) -> None:
        """Report a done-callback that raised."""
