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
        source: Where its numbers come from. Once it is released, something that holds nothing else of it;
            None for a pool that was garbage-collected before its first use.
        report: Counts an error that exporting raised; None before the pool's first use.
        closed: Whether it is exported no more, save for what it has counted.
        collected: Whether the pool was garbage-collected, so that nobody can submit to it.
        released: Whether it has stopped, and its last worker is back.
    """

    __slots__ = ("closed", "collected", "pool", "released", "report", "source")

    def __init__(self, pool: str, source: Source) -> None:
        self.pool = pool
        self.source: Source | None = source
        self.report: Callable[[BaseException], None] | None = None
        self.closed = False
        self.collected = False
        self.released = False

    def is_final(self) -> bool:
        """Tell whether its numbers will not change any more, and can be read without a lock of the pool's."""
        return self.source is None or (self.collected and self.released)


@dataclass(frozen=True, slots=True)
class _Name:
    """What there is of one name. It is replaced as a whole, or an interrupt would leave a pool counted twice.

    Attributes:
        since: Unix time of its first pool.
        exports: Its pools, the newest last.
        totals: What the pools that are gone have counted; None if there was none that did.
        last: The newest of these.
        retired: Tells by its size which of the names without a pool lost it first; 0 for one that has a pool.
    """

    since: float = field(default_factory=time.time)
    exports: tuple[Export, ...] = ()
    totals: Totals | None = None
    last: PoolSnapshot | None = None
    retired: int = 0

    def without(self, final: list[Export], retired: int) -> _Name:
        """Return it with the numbers of pools that are gone moved into the totals."""
        exports = tuple(export for export in self.exports if export not in final)
        snapshots = [export.source.snapshot() for export in final if export.source is not None]
        totals, last = self.totals, self.last
        if snapshots:
            totals, last = (totals or Totals()).plus(snapshots), snapshots[-1]
        return _Name(self.since, exports, totals, last, 0 if exports else retired)

    def reading(self, pool: str) -> Reading | None:
        """Read its pools; None if there is nothing to read."""
        there = [
            (source.snapshot(), export.closed)
            for export in self.exports
            if (source := export.source) is not None
        ]
        totals = self.totals
        if there:
            totals = (totals or Totals()).plus([snapshot for snapshot, _ in there])
        shown = [snapshot for snapshot, closed in there if not closed]
        if not shown and self.last is not None:
            shown = [self.last]
        return Reading(pool, self.since, totals, read_gauges(shown)) if totals and shown else None


class _Cell:
    """Holds one name. To compare it and to replace it are attribute accesses, between which nothing runs."""

    __slots__ = ("name",)

    def __init__(self, name: _Name) -> None:
        self.name: _Name | None = name

    def replace(self, before: _Name | None, after: _Name | None) -> bool:
        """Replace the name, unless a signal handler has done so. None: the cell is in no dict any more."""
        if self.name is before:
            self.name = after
            return True
        return False


class PoolExports:
    """Keeps the exported pools of one registry.

    A living pool is never read with the lock held: whoever builds a pool in a signal handler may have
    interrupted a frame that holds that pool's lock.
    """

    def __init__(self) -> None:
        # It does not keep a signal handler or a finalizer in the same thread out.
        self._lock = threading.RLock()
        self._cells: dict[str, _Cell] = {}
        # Names when all were looked through last, and names that have lost their last pool so far.
        self._looked_through = 0
        self._retirements = 0

    def add(self, export: Export) -> None:
        """Export a pool."""
        pool = export.pool
        with self._lock:
            if pool not in self._cells and len(self._cells) > 2 * self._looked_through + KEPT_NAMES:
                self._retire_all()
            while True:
                cell = self._cells.get(pool)
                before = None if cell is None else cell.name
                if cell is None or before is None:
                    self._cells[pool] = _Cell(_Name(exports=(export,)))
                    break
                if cell.replace(before, replace(before, exports=(*before.exports, export), retired=0)):
                    self._retire(pool, cell)
                    break

    def remove(self, export: Export) -> None:
        """Export it no more; nothing of its name either, if it is the last pool of that name."""
        export.closed = True
        with self._lock:
            cell = self._cells.get(export.pool)
            name = None if cell is None else cell.name
            if cell is not None and name is not None and all(each.closed for each in name.exports):
                self._drop(export.pool, cell, name)

    def forget_all(self) -> None:
        """Drop all without taking a lock, for a forked child."""
        self._lock = threading.RLock()
        self._cells = {}

    def exports(self) -> list[Export]:
        """Return the pools that are there."""
        with self._lock:
            names = [cell.name for cell in list(self._cells.values())]
        return [export for name in names if name is not None for export in name.exports]

    def readings(self, pool: str | None = None) -> list[Reading]:
        """Read every pool, or those of one name, and return the numbers of each name."""
        with self._lock:
            if pool is None:
                self._retire_all()
            names = [
                (each, cell.name) for each, cell in list(self._cells.items()) if pool is None or each == pool
            ]
            if pool is None:
                # None is forgotten unread.
                self._forget(KEPT_NAMES)
        # Without the lock: to read a pool may take its time, and takes its lock.
        return [
            reading
            for each, name in names
            if name is not None and (reading := name.reading(each)) is not None
        ]

    def _retire_all(self) -> None:
        for pool, cell in list(self._cells.items()):
            self._retire(pool, cell)
        self._forget(UNSCRAPED_NAMES)
        self._looked_through = len(self._cells)

    def _retire(self, pool: str, cell: _Cell) -> None:
        """Move what is final of a name into its totals."""
        name = cell.name
        if name is None or not (final := [export for export in name.exports if export.is_final()]):
            return
        self._retirements += 1
        rest = name.without(final, self._retirements)
        if cell.replace(name, rest) and not rest.exports and rest.totals is None:
            self._drop(pool, cell, rest)

    def _forget(self, kept: int) -> None:
        """Drop the names that have lost their pools first, but for so many."""
        retired = [
            (name.retired, pool, cell, name)
            for pool, cell in list(self._cells.items())
            if (name := cell.name) is not None and not name.exports
        ]
        retired.sort(key=lambda each: each[0])
        for _, pool, cell, name in retired[: max(0, len(retired) - kept)]:
            self._drop(pool, cell, name)

    def _drop(self, pool: str, cell: _Cell, name: _Name) -> None:
        if not cell.replace(name, None):
            return
        there = self._cells.pop(pool, None)
        if there is not cell and there is not None:
            self._cells.setdefault(pool, there)  # a signal handler has put it there
