"""What gunicorn's configuration needs in prometheus_client's multiprocess mode."""

from __future__ import annotations

from typing import Any

from prometheus_client import multiprocess


def child_exit(_server: Any, worker: Any) -> None:
    """Take the gauges of a worker that is gone out of the scrape."""
    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
