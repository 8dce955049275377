"""The pools of this process in the files of prometheus_client's multiprocess mode.

In that mode (``PROMETHEUS_MULTIPROC_DIR``) each process of a service writes its numbers into files, and a
scrape of any of them adds all files up; a collector's numbers are in none. So the watchdog's thread writes
them, once a second and what has changed only, by prometheus_client's own class of values. A task costs
nothing more.

Counters are written as differences: a process may get the pid of one that is gone, and its files, and the
buckets of a name may change with its pools.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from weakref import ref

from prometheus_client import values
from prometheus_client.utils import floatToGoString

from prodpool.concurrency import fork_hooks
from prodpool.concurrency.background_thread import background_thread
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, Labels
from prodpool.telemetry.pool_exports import Export, PoolExports
from prodpool.telemetry.readings import Reading, Totals

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
Merge = Callable[[float, float], float]
# How the gauges of several living processes become one; those of a dead one are left out.
MODES: dict[Merge, str] = {operator.add: "livesum", max: "livemax", min: "livemin"}
# Each process has a breaker of its own: how many of them are in which state.
OWN_MODES = {"workerpool_breaker_state": "livesum"}
# Seconds that a fork, and the end of a pool, wait for a write to end.
PATIENCE = 1.0
# What is in a file stays there, so names that are made up for each request have to end somewhere.
MOST_NAMES = 1000

Key = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One number, and what prometheus_client asks about it to find its place in a file.

    Attributes:
        number: Of a gauge, its value; of all else, what is to be added.
        mode: Of a gauge, how several processes become one.
        merge: Of a gauge, how the pools of several registries become one.
    """

    kind: str
    metric: str
    name: str
    labels: Labels
    values: Labels
    help: str
    number: float
    mode: str = ""
    merge: Merge = operator.add

    def new_value(self) -> Any:
        """Return its place, as prometheus_client's own metrics make theirs."""
        series = self.metric, self.name, self.labels, self.values
        return values.ValueClass(self.kind, *series, self.help, multiprocess_mode=self.mode)


class MultiprocessWriter:
    """Writes the numbers of all pools of this process; the watchdog's thread calls it at intervals."""

    interval = 1.0

    def __init__(self, lock: Any) -> None:
        # Held while a file is written, so that no process is forked meanwhile: prometheus_client's own lock
        # would be held in the child for ever.
        self._lock = lock
        # Added to anywhere, by the one step that this is.
        self._exports: dict[int, ref[PoolExports]] = {}
        # Guarded by _lock: the places of all numbers, which of them are gauges that can be cleared, what of
        # each name is written already, and what is not.
        self._places: dict[Key, Any] = {}
        self._gauges: set[Key] = set()
        self._written: dict[tuple[int, str], tuple[float, Totals]] = {}
        self._unwritten: dict[Key, tuple[_Sample, float]] = {}
        self._names: set[str] = set()
        self._is_full = False

    def add(self, exports: PoolExports) -> None:
        """Write the pools of a registry from now on. It takes no lock: a signal handler may build a pool.

        Raises:
            ValueError: The folder is missing or cannot be written to.
        """
        _check_folder()
        self._exports[id(exports)] = ref(exports)

    def tick(self) -> None:
        """Write what has changed, unless that is just being done. Never raises, and never waits."""
        if self._lock.acquire(blocking=False):
            try:
                self._write_or_report(None)
            finally:
                self._lock.release()
            self._rest_without_pools()

    def write(self, pool: str) -> None:
        """Write what has changed of one name. Never raises."""
        # Another thread that writes takes milliseconds; what waits for longer is left to the next second.
        if self._lock.acquire(timeout=PATIENCE):
            try:
                self._write_or_report(pool)
            finally:
                self._lock.release()

    def _write_or_report(self, pool: str | None) -> None:
        try:
            _check_folder()
            self._write(pool)
        except Exception as error:  # noqa: BLE001  # a folder that is gone, a file that is none of theirs
            self._report(error)

    def _report(self, error: Exception) -> None:
        with suppress(Exception):
            for export in self._all_exports():
                if export.report is not None:
                    export.report(error)

    def _all_exports(self) -> list[Export]:
        there = [exports for each in list(self._exports.values()) if (exports := each()) is not None]
        return [export for exports in there for export in exports.exports()]

    def _rest_without_pools(self) -> None:
        """Let the watchdog's thread end with the last pool; the next one begins again."""
        if not self._all_exports():
            background_thread().remove_periodic(self)
            if self._all_exports():
                background_thread().add_periodic(self)

    def _write(self, pool: str | None) -> None:
        gauges: dict[Key, tuple[_Sample, float]] = {}
        for number, weak in list(self._exports.items()):
            exports = weak()
            for reading in [] if exports is None else exports.readings(pool):
                if not self._has_room(reading.pool):
                    continue
                self._take(number, reading)
                for sample in _gauges(reading):
                    # What two registries call by one name is one here.
                    key = sample.name, sample.values
                    merged = sample.merge(gauges[key][1], sample.number) if key in gauges else sample.number
                    gauges[key] = sample, merged
        for key, (sample, added) in list(self._unwritten.items()):
            place = self._place(key, sample)
            if added:
                place.inc(added)
            del self._unwritten[key]
        for key, (sample, value) in gauges.items():
            place = self._place(key, sample)
            if place.get() != value:
                place.set(value)
        if pool is None:
            self._clear_gauges(gauges)

    def _has_room(self, pool: str) -> bool:
        if pool not in self._names:
            if len(self._names) >= MOST_NAMES:
                if not self._is_full:
                    self._is_full = True
                    self._report(ValueError(f"{pool!r} and more than {MOST_NAMES} other names of pools"))
                return False
            self._names.add(pool)
        return True

    def _take(self, exports: int, reading: Reading) -> None:
        """Take what has been counted since the last time."""
        since, before = self._written.get((exports, reading.pool), (reading.since, Totals()))
        added = reading.totals if since != reading.since else reading.totals.minus(before)
        for sample in _counted(reading.pool, added):
            key = sample.name, sample.values
            so_far = self._unwritten[key][1] if key in self._unwritten else 0.0
            self._unwritten[key] = sample, so_far + sample.number
        self._written[exports, reading.pool] = reading.since, reading.totals

    def _place(self, key: Key, sample: _Sample) -> Any:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = sample.new_value()
            # Nothing can be taken out of a minimum.
            if sample.mode and sample.mode != MODES[min]:
                self._gauges.add(key)
        return place

    def _clear_gauges(self, there: Collection[Key]) -> None:
        """Take the gauges of names that are not exported any more out of the sums."""
        for key in self._gauges:
            if key not in there and self._places[key].get():
                self._places[key].set(0.0)


def _counted(pool: str, added: Totals) -> Iterator[_Sample]:
    for spec in COUNTERS:
        metric, labels = spec.name.removesuffix("_total"), ("pool", *spec.labels)
        for each, number in added.values(spec).items():
            yield _Sample("counter", metric, spec.name, labels, (pool, *each), spec.help, number)
    for each_histogram in HISTOGRAMS:
        name, text = each_histogram.name, each_histogram.help
        histogram = added.histogram(each_histogram)
        # What is in one bucket alone: the reader adds them up.
        for (_, below), (bound, count) in pairwise([(0.0, 0), *((b, n) for b, n, _ in histogram.buckets)]):
            le: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            inside = float(count - below)
            yield _Sample("histogram", name, f"{name}_bucket", ("pool", "le"), (pool, le), text, inside)
        yield _Sample("histogram", name, f"{name}_sum", ("pool",), (pool,), text, histogram.seconds)


def _gauges(reading: Reading) -> Iterator[_Sample]:
    for spec in GAUGES:
        labels, mode = ("pool", *spec.labels), OWN_MODES.get(spec.name) or MODES[spec.merge]
        for each, number in reading.gauges[spec.name].items():
            at = (reading.pool, *each)
            yield _Sample("gauge", spec.name, spec.name, labels, at, spec.help, number, mode, spec.merge)


def multiprocess_folder() -> str | None:
    """Return the folder of prometheus_client's multiprocess mode; None outside of it."""
    return os.environ.get(FOLDER) or os.environ.get(FOLDER.lower())


def _check_folder() -> None:
    folder = multiprocess_folder()
    if folder is None or not Path(folder).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{FOLDER}={folder!r} is no folder that this process may write to, and the metrics of its pools "
            "would be seen nowhere: create it, empty, before the service starts, or unset the variable"
        )


def _new_lock() -> Any:
    lock = threading.RLock()
    if hasattr(os, "register_at_fork"):
        # Functions in C: in one of Python's a signal handler may raise before its first line, and the lock
        # would stay held.
        os.register_at_fork(
            before=partial(lock.acquire, timeout=PATIENCE),
            after_in_parent=lock.release,
            after_in_child=lock.release,
        )
    return lock


_lock = _new_lock()
_writer = MultiprocessWriter(_lock)


def multiprocess_writer() -> MultiprocessWriter | None:
    """Return the writer of this process; None if prometheus_client is not in multiprocess mode."""
    return None if values.ValueClass is values.MutexValue else _writer


def _after_fork() -> None:
    global _lock, _writer  # noqa: PLW0603  # one per process is the point
    # Held by this thread, by the hook; by another one, which is not here, after a fork that could not wait.
    if _lock.acquire(blocking=False):
        _lock.release()
    else:
        _lock = _new_lock()
    _writer = MultiprocessWriter(_lock)


fork_hooks.register(_after_fork)
