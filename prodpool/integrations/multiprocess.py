"""What is left of a process that has ended in prometheus_client's multiprocess mode."""

from __future__ import annotations

from prometheus_client.multiprocess import mark_process_dead

from prodpool.telemetry.exporters.prometheus_multiprocess import multiprocess_folder


def remove_gauges(pid: int) -> None:
    """Take the gauges of a process that has ended out of the scrape; its counters stay in the sums.

    Does nothing outside multiprocess mode.

    Raises:
        OSError: A file of its gauges cannot be removed.
    """
    if multiprocess_folder():
        mark_process_dead(pid)  # type: ignore[no-untyped-call]
