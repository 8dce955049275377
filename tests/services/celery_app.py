"""A Celery application over pools that were built at import: served by the tests beside it.

With STOP_POOLS the children stop their pools when they are to end.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from prodpool.integrations.celery import stop_pools_with_worker
from tests.helpers.waiting import until
from tests.services.celery_broker import configured
from tests.services.pools import POOLS, answer
from tests.services.service import meet

app = configured(Path(os.environ["BROKER"]))


def ask(place: str, name: str, count: int) -> None:
    """Leave an answer in ``place`` and wait until so many are there."""
    meet(place, count, answer(name))


def leave(place: str) -> None:
    """Leave a task in a pool which is not done before the pool is stopped, and say so."""

    def be_done() -> None:
        until(lambda: POOLS["threads"].stats().state == "draining")
        # At the exit of the interpreter, which drains pools too, the main thread has ended.
        Path(place, "done").write_text(f"main thread: {threading.main_thread().is_alive()}")

    POOLS["threads"].submit(be_done)
    meet(place, 1, "left")


app.task(name="ask")(ask)
app.task(name="leave")(leave)


if os.environ.get("STOP_POOLS"):
    stop_pools_with_worker()
    stop_pools_with_worker()  # as where two modules of an application do it
