"""The pools of this process in the files of prometheus_client's multiprocess mode.

In that mode (``PROMETHEUS_MULTIPROC_DIR``) each process of a service writes its numbers into files, and a
scrape of any of them adds all files up; a collector's numbers are in none. So the watchdog's thread writes
them, once a second and what has changed only, by prometheus_client's own class of values. A task costs
nothing more.

A counter goes on from what its file holds: a process may get the pid of one that is gone, and its files.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from prometheus_client import values
from prometheus_client.utils import floatToGoString

from prodpool.concurrency import fork_hooks
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS, Labels
from prodpool.telemetry.pool_exports import Export, PoolExports
from prodpool.telemetry.readings import Reading

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
Merge = Callable[[float, float], float]
# How the gauges of several living processes become one; those of a dead one are left out.
MODES: dict[Merge, str] = {operator.add: "livesum", max: "livemax", min: "livemin"}
# Each process has a breaker of its own: how many of them are in which state.
OWN_MODES = {"workerpool_breaker_state": "livesum"}
# Seconds that a fork waits for a write to end.
PATIENCE = 1.0

Key = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One number, and what prometheus_client asks about it to find its place in a file."""

    kind: str
    metric: str
    name: str
    labels: Labels
    values: Labels
    help: str
    number: float
    # Of gauges alone.
    mode: str = ""
    merge: Merge = operator.add

    def new_value(self) -> Any:
        """Return its place, as prometheus_client's own metrics make theirs."""
        series = self.metric, self.name, self.labels, self.values
        return values.ValueClass(self.kind, *series, self.help, multiprocess_mode=self.mode)


class _Place:
    """The place of one number in a file, and what is there."""

    __slots__ = ("mode", "value", "written")

    def __init__(self, sample: _Sample) -> None:
        self.value = sample.new_value()
        self.mode = sample.mode
        self.written: float = self.value.get()

    def write(self, number: float) -> None:
        """Write a number, if it has changed."""
        if number != self.written:
            self.value.set(number)
            self.written = number


class MultiprocessWriter:
    """Writes the numbers of all pools of this process; the watchdog's thread calls it at intervals."""

    interval = 1.0

    def __init__(self) -> None:
        # Held while a file is written, so that no process is forked meanwhile: prometheus_client's own lock
        # would be held in the child for ever.
        self.lock = threading.RLock()
        # Guarded by lock.
        self._exports: WeakSet[PoolExports] = WeakSet()
        self._places: dict[Key, _Place] = {}
        # What of each counter is in the files already, and the time at which it was 0.
        self._counted: WeakKeyDictionary[PoolExports, dict[Key, tuple[float, float]]] = WeakKeyDictionary()
        self._names: set[str] = set()

    def add(self, exports: PoolExports, export: Export) -> None:
        """Have the counters of a pool's name in the file from its construction on.

        Its gauges come with the first use of a pool in this process: one that only forks others has none.

        Raises:
            ValueError: The folder is missing or cannot be written to.
        """
        _check_folder()
        with self.lock:
            self._exports.add(exports)
            if export.pool not in self._names:
                self._names.add(export.pool)
                self._write(gauges=False, pool=export.pool)

    def tick(self) -> None:
        """Write what has changed. Never raises: the pools count what goes wrong."""
        self.write()

    def write(self, pool: str | None = None) -> None:
        """Write what has changed, of one name or of all. Never raises."""
        try:
            _check_folder()
            self._write(gauges=True, pool=pool)
        except Exception as error:  # noqa: BLE001  # a folder that is gone, a file that is none of theirs
            for exports in list(self._exports):
                for export in exports.exports():
                    export.report(error)

    def _write(self, *, gauges: bool, pool: str | None) -> None:
        with self.lock:
            there: dict[Key, float] = {}
            for exports in list(self._exports):
                counted = self._counted.setdefault(exports, {})
                for reading in exports.readings(pool):
                    for sample in _samples(reading):
                        key = sample.name, sample.values
                        if not sample.mode:
                            since, before = counted.get(key, (reading.since, 0.0))
                            place = self._place(key, sample)
                            place.write(
                                place.written + sample.number - (before if since == reading.since else 0.0)
                            )
                            counted[key] = reading.since, sample.number
                        elif gauges:
                            # What two registries call by one name is one here.
                            there[key] = (
                                sample.merge(there[key], sample.number) if key in there else sample.number
                            )
                            self._place(key, sample)
            for key, number in there.items():
                self._places[key].write(number)
            if gauges and pool is None:
                self._clear_gauges(there)

    def _place(self, key: Key, sample: _Sample) -> _Place:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(sample)
        return place

    def _clear_gauges(self, there: Collection[Key]) -> None:
        """Take the gauges of names that are not exported any more out of the sums."""
        for key, place in self._places.items():
            # Nothing can be taken out of a minimum.
            if place.mode and place.mode != MODES[min] and key not in there:
                place.write(0.0)


def _samples(reading: Reading) -> Iterator[_Sample]:
    pool = reading.pool
    for spec in COUNTERS:
        metric, labels = spec.name.removesuffix("_total"), ("pool", *spec.labels)
        for each, number in reading.totals.counters[spec.name].items():
            yield _Sample("counter", metric, spec.name, labels, (pool, *each), spec.help, number)
    for histogram in HISTOGRAMS:
        name, text, snapshot = histogram.name, histogram.help, reading.totals.histograms[histogram.name]
        below = 0
        # What is in one bucket alone: the reader adds them up.
        for bound, count, _ in snapshot.buckets:
            le: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
            inside = float(count - below)
            yield _Sample("histogram", name, f"{name}_bucket", ("pool", "le"), (pool, le), text, inside)
            below = count
        yield _Sample("histogram", name, f"{name}_sum", ("pool",), (pool,), text, snapshot.total)
    for spec in GAUGES:
        labels, mode = ("pool", *spec.labels), OWN_MODES.get(spec.name) or MODES[spec.merge]
        for each, number in reading.gauges[spec.name].items():
            at = (pool, *each)
            yield _Sample("gauge", spec.name, spec.name, labels, at, spec.help, number, mode, spec.merge)


def _check_folder() -> None:
    folder = os.environ.get(FOLDER) or os.environ.get(FOLDER.lower())
    if folder is None or not Path(folder).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(
            f"{FOLDER}={folder!r} is no folder that this process may write to, and the metrics of its pools "
            "would be seen nowhere: create it, empty, before the service starts, or unset the variable"
        )


_writer = MultiprocessWriter()


def multiprocess_writer() -> MultiprocessWriter | None:
    """Return the writer of this process; None if prometheus_client is not in multiprocess mode."""
    return None if values.ValueClass is values.MutexValue else _writer


def _before_fork() -> None:
    _writer.lock.acquire(timeout=PATIENCE)


def _after_fork_in_parent() -> None:
    # It is not held if the wait was in vain.
    with suppress(RuntimeError):
        _writer.lock.release()


def _after_fork() -> None:
    global _writer  # noqa: PLW0603  # one per process is the point
    _writer = MultiprocessWriter()


fork_hooks.register(_after_fork)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
