"""The pools whose numbers one registry exports, by name.

Several pools may have one name, at once or one after the other: what a service creates per request, or anew
when it reloads. Their numbers are added up, and a counter of a name never goes down: what a pool has counted
goes into the name's totals once the pool is gone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prodpool.telemetry.readings import Reading, Totals, read_gauges
from prodpool.telemetry.snapshot import PoolSnapshot, Source

# Names without a pool that stay exported, as a counter does elsewhere. Names are not meant to be made up per
# request: of more than these, the oldest are exported until one scrape has seen them...
KEPT_NAMES = 100
# ...and of more than these not even that, for there may never be a scrape.
UNSCRAPED_NAMES = 1000


class Export:
    """One exported pool. A finalizer may write to it anywhere, so that takes no lock.

    Attributes:
        pool: The pool's name.
        report: Counts an error that exporting raised.
        source: Where its numbers come from. Once it is released, something that holds nothing else of it;
            None for a pool that was garbage-collected before its first use.
        collected: Whether the pool was garbage-collected, so that nobody can submit to it.
        released: Whether it has stopped, and its last worker is back.
    """

    __slots__ = ("collected", "pool", "released", "report", "source")

    def __init__(self, pool: str, source: Source, report: Callable[[BaseException], None]) -> None:
        self.pool = pool
        self.report = report
        self.source: Source | None = source
        self.collected = False
        self.released = False

    def is_final(self) -> bool:
        """Tell whether its numbers will not change any more."""
        return self.source is None or (self.collected and self.released)


@dataclass(frozen=True, slots=True)
class _Name:
    """What there is of one name. It is replaced as a whole, or an interrupt would leave a pool counted twice.

    Attributes:
        since: Unix time of its first pool.
        exports: Its pools, the newest last.
        totals: What the pools that are gone have counted; None if there was none that did.
        last: The newest of these.
    """

    since: float = field(default_factory=time.time)
    exports: tuple[Export, ...] = ()
    totals: Totals | None = None
    last: PoolSnapshot | None = None

    def without(self, gone: list[Export]) -> _Name:
        """Return it with the numbers of pools that are gone moved into the totals."""
        exports = tuple(export for export in self.exports if export not in gone)
        snapshots = [export.source.snapshot() for export in gone if export.source is not None]
        if not snapshots:
            return replace(self, exports=exports)
        totals = (self.totals or Totals()).plus(snapshots)
        return replace(self, exports=exports, totals=totals, last=snapshots[-1])

    def reading(self, pool: str) -> Reading | None:
        """Read its pools; None if there has been nothing to read."""
        snapshots = [source.snapshot() for export in self.exports if (source := export.source) is not None]
        totals = self.totals or Totals()
        if snapshots:
            return Reading(pool, self.since, totals.plus(snapshots), read_gauges(snapshots))
        return None if self.last is None else Reading(pool, self.since, totals, read_gauges([self.last]))


class PoolExports:
    """Keeps the exported pools of one registry."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # Guarded by _lock, which does not keep a signal handler of the same thread out: the names that have
        # a pool, and those that have none, the one that lost it first at the head.
        self._names: dict[str, _Name] = {}
        self._retired: dict[str, _Name] = {}
        # Names when all were looked through last.
        self._looked_through = 0

    def add(self, export: Export) -> None:
        """Export a pool."""
        pool = export.pool
        with self._lock:
            if pool not in self._names and len(self._names) > 2 * self._looked_through + KEPT_NAMES:
                self._retire_all()
            while True:
                before = self._names.get(pool)
                name = before or self._retired.get(pool) or _Name()
                if self._replace(pool, before, replace(name, exports=(*name.exports, export))):
                    break
            self._retired.pop(pool, None)
            self._retire(pool)

    def remove(self, export: Export) -> None:
        """Export it no more; nothing of its name either, if it is the last pool of that name."""
        with self._lock:
            while (name := self._names.get(export.pool)) is not None and export in name.exports:
                if self._replace(export.pool, name, name.without([export])):
                    break
            else:
                return
            if name.exports == (export,):
                self._names.pop(export.pool, None)

    def forget_all(self) -> None:
        """Drop all without taking a lock, for a forked child."""
        self._lock = threading.RLock()
        self._names = {}
        self._retired = {}

    def exports(self) -> list[Export]:
        """Return the pools that are there."""
        with self._lock:
            return [export for name in self._names.values() for export in name.exports]

    def readings(self, pool: str | None = None) -> list[Reading]:
        """Read every pool, or those of one name, and return the numbers of each name."""
        with self._lock:
            if pool is None:
                self._retire_all()
            names = self._retired | self._names
            if pool is None:
                # None is forgotten unread.
                self._forget(KEPT_NAMES)
            else:
                names = {name: each for name, each in names.items() if name == pool}
        # Without the lock: to read a pool may take its time.
        return [reading for each, name in names.items() if (reading := name.reading(each)) is not None]

    def _replace(self, pool: str, before: _Name | None, name: _Name) -> bool:
        """Store a name, unless a signal handler has stored another."""
        # CPython calls none between the comparison and the store.
        if self._names.get(pool) is before:
            self._names[pool] = name
            return True
        return False

    def _retire_all(self) -> None:
        for pool in list(self._names):
            self._retire(pool)
        self._looked_through = len(self._names)
        self._forget(UNSCRAPED_NAMES)

    def _retire(self, pool: str) -> None:
        """Move what is final of a name into its totals."""
        name = self._names.get(pool)
        if name is None:
            return
        if final := [export for export in name.exports if export.is_final()]:
            before, name = name, name.without(final)
            if not self._replace(pool, before, name):
                return
        if not name.exports:
            if name.totals is not None:
                self._retired[pool] = name
            if self._names.get(pool) is name:
                del self._names[pool]

    def _forget(self, kept: int) -> None:
        for pool in list(self._retired)[:-kept]:
            self._retired.pop(pool, None)
