"""The database connections that tasks open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import close_old_connections, connections


@contextmanager
def closing_old_connections() -> Iterator[None]:
    """Close connections that are unusable or older than ``CONN_MAX_AGE`` before and after a task.

    Pass it to a pool: ``InstrumentedPool(..., around=closing_old_connections)``. Django does so at the start
    and the end of each request, but in the thread of the request only. A worker has connections of its own,
    which would stay open until the server closes them, and the next task would fail.

    In a thread with an open ``atomic`` block nothing is closed, because its transaction would be lost. So it
    is where the submitting thread runs the task itself (``overload="caller_runs"``).

    Source: docs.djangoproject.com/en/stable/ref/databases/#connection-management
    """
    _close_old_connections()
    try:
        yield
    finally:
        _close_old_connections()


def _close_old_connections() -> None:
    if not any(connection.in_atomic_block for connection in connections.all(initialized_only=True)):
        close_old_connections()
