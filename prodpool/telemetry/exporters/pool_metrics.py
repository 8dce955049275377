"""The metrics of one pool, on their ways out of the process."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.registry import CollectorRegistry

from prodpool.concurrency.background_thread import background_thread
from prodpool.telemetry.exporters.prometheus import collector_of
from prodpool.telemetry.exporters.prometheus_multiprocess import multiprocess_writer
from prodpool.telemetry.pool_exports import Export
from prodpool.telemetry.snapshot import Source


class PoolMetrics:
    """Exports one pool.

    Args:
        pool: Its name.
        source: Where its numbers come from.
        registry: The registry that exports it.
        report: Counts an error that exporting raised.
    """

    def __init__(
        self,
        pool: str,
        source: Source,
        registry: CollectorRegistry,
        report: Callable[[BaseException], None],
    ) -> None:
        self._exports = collector_of(registry).exports
        self._export = Export(pool, source)
        self._report = report
        self._writer = multiprocess_writer()

    def open(self) -> None:
        """Export the pool.

        Raises:
            ValueError: In prometheus_client's multiprocess mode, its folder cannot be written to.
        """
        if self._writer is not None:
            self._writer.add(self._exports)
        self._exports.add(self._export)

    def begin(self) -> None:
        """Have the pool's numbers written from now on where they have to be, by the watchdog's thread.

        Raises:
            RuntimeError: No thread can be started.
        """
        self._export.report = self._report
        if self._writer is not None:
            background_thread().add_periodic(self._writer)
            background_thread().call_soon(self._writer.tick)

    def stopped(self) -> None:
        """Write the last numbers: the process may end before they are due."""
        if self._writer is not None:
            self._writer.write(self._export.pool)

    def release(self, source: Source) -> None:
        """Go on with the numbers of a stopped pool, which hold nothing else of it."""
        self._export.source = source
        self._export.released = True

    def pool_collected(self, *, used: bool) -> None:
        """Note that no reference is left to the pool. A finalizer calls it anywhere, so it takes no lock."""
        if not used:
            self._export.source = None
        self._export.collected = True

    def close(self) -> None:
        """Export the pool no more; in multiprocess mode once what it has counted is written."""
        # By the watchdog's thread: a signal handler may be on top of a frame with prometheus_client's lock.
        if self._writer is None or not background_thread().call_soon(self._write_and_remove):
            self._exports.remove(self._export)

    def _write_and_remove(self) -> None:
        if self._writer is not None:
            self._writer.write(self._export.pool)
        self._exports.remove(self._export)
