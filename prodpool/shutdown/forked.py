"""What stands in for a pool's lock in the child of a fork, in which its threads are missing."""

from __future__ import annotations

from prodpool.errors import PoolForkedError


class ForkedLock:
    """Stands in for a pool's lock in a forked child; the real one may be held for ever there."""

    def __init__(self, pool: str) -> None:
        self._pool = pool

    def __enter__(self) -> None:
        raise PoolForkedError(pool=self._pool)

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the lock was not taken."""
