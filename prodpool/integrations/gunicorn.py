"""Hooks for gunicorn's workers: their pools are drained when they end, and their gauges leave the sums.

In ``gunicorn.conf.py``, which has gunicorn call functions of these names::

    from prodpool.integrations.gunicorn import child_exit, post_fork, worker_exit

A hook of the application's own is a function of the same name that calls the one from here. Without a file,
``gunicorn --config=python:prodpool.integrations.gunicorn`` does the same.

Source: docs.gunicorn.org/en/stable/settings.html#server-hooks
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from prodpool.concurrency.interrupts import start_thread
from prodpool.engine_holder import stop_pools
from prodpool.integrations.multiprocess import remove_gauges

__all__ = ["child_exit", "post_fork", "worker_exit"]

# Seconds of gunicorn's graceful_timeout that are left for what comes after the pools have stopped.
AFTER_POOLS = 1.0
# Seconds between two signs of life to the master.
NOTIFY_EVERY = 0.5

# In a worker: the file by whose time the master sees that the worker lives.
_worker_file: int | None = None


def post_fork(_server: Any, worker: Any) -> None:
    """Keep open, in a worker, the file by which the master sees that it lives.

    gunicorn closes its own before it calls `worker_exit`. Without this hook a worker that drains its pools is
    killed ``timeout`` seconds after its last sign of life, which may have been before its last request, and
    one that was aborted for its silence is killed a second later.
    """
    global _worker_file  # noqa: PLW0603  # one per process is the point
    _worker_file = os.dup(worker.tmp.fileno())


def worker_exit(_server: Any, worker: Any) -> None:
    """Drain the pools of a worker that ends, each within its ``drain_deadline`` and ``graceful_timeout``.

    gunicorn counts the latter from its SIGTERM, and calls this after the worker's last request.

    The interpreter's exit would do it as well. But then a task cannot start a thread on CPython 3.12, and a
    pool whose ``drain_deadline`` is longer than ``graceful_timeout`` is killed in the midst of it.
    """
    if worker.pid != os.getpid():
        return  # by the master, for a worker that is gone and that it had not waited for
    deadline = max(0.0, worker.cfg.graceful_timeout - AFTER_POOLS)
    stopping = threading.Thread(
        target=stop_pools, args=(deadline,), name="prodpool-stop-with-worker", daemon=True
    )
    start_thread(stopping)
    while stopping.is_alive():
        _notify_master()
        stopping.join(NOTIFY_EVERY)


def child_exit(server: Any, worker: Any) -> None:
    """Take the gauges of a worker that is gone out of the scrape; does nothing outside multiprocess mode."""
    try:
        remove_gauges(worker.pid)
    except OSError as error:
        # It would end the master, and with it the service.
        server.log.warning("The gauges of worker %s stay in the metrics: %s", worker.pid, error)


def _notify_master() -> None:
    if _worker_file is not None:
        now = time.monotonic()
        os.utime(_worker_file, (now, now))  # as gunicorn's own WorkerTmp.notify
