"""What becomes of a pool in the child of a fork, in which its threads are missing."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

from prodpool.errors import PoolClosedError


class Forkable(Protocol):
    """What has to be disabled in a forked child."""

    def forked(self) -> None:
        """Disable the pool in this process; any lock of it may be held for ever."""


class ForkedLock:
    """Stands in for a pool's lock in a forked child; the real one may be held for ever there."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        raise PoolClosedError(
            pool=self._pool,
            detail="it was built before this process was forked, and its threads stayed in the parent: "
            "build the pool after the fork",
        )

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the lock was not taken."""


# All pools that there are. The exit registry knows only those that are not stopped, but in a forked child the
# lock of any pool may be held for ever.
_pools: WeakSet[Forkable] = WeakSet()


def disable_in_children(pool: Forkable) -> None:
    """Have ``pool`` disabled in every child that is forked from now on."""
    _pools.add(pool)


def _after_fork() -> None:
    for pool in list(_pools):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
