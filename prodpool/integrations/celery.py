"""Pools in Celery's workers: they are drained when a worker, or a child of its prefork pool, ends.

One line in the module of the Celery application::

    stop_pools_with_worker()

Source: docs.celeryq.dev/en/stable/userguide/signals.html#worker-signals
"""

from __future__ import annotations

import math
import os
import threading

from celery.signals import worker_process_shutdown, worker_shutdown

from prodpool.engine_holder import stop_pools
from prodpool.integrations.multiprocess import remove_gauges

__all__ = ["stop_pools_with_worker"]


def stop_pools_with_worker() -> None:
    """Have the pools of a Celery worker drained when it ends, each within its ``drain_deadline``.

    Pools of a prefork child are drained when the child ends, also when it is recycled: the child leaves by
    ``os._exit``, which drains nothing. Those of a worker without children, of ``--pool=threads`` or ``solo``,
    once its Celery tasks have ended. In prometheus_client's multiprocess mode the gauges of the process
    leave the scrape then. To call it again changes nothing. A task that Celery kills by SIGKILL, for its hard
    time limit, takes the pools of its child along.
    """
    worker_process_shutdown.connect(_stop_pools)
    worker_shutdown.connect(_stop_pools_of_process)


def _stop_pools(**_: object) -> None:
    stop_pools(math.inf)
    remove_gauges(os.getpid())


def _stop_pools_of_process(**_: object) -> None:
    # One that a test runs in a thread, as celery.contrib.testing does, is not the end of the process.
    if threading.current_thread() is threading.main_thread():
        _stop_pools()
