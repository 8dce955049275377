"""A Sentry scope for each task, to be passed as ``around=`` to a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sentry_sdk

from prodpool.execution.current_task import current_task


@contextmanager
def task_scope(*, capture_errors: bool = False) -> Iterator[None]:
    """Run a task in an isolation scope of its own, which begins with what the submitter's scope holds.

    Without it a task has the very scope of the request that has submitted it, since the context is copied and
    the scope in it is not: a tag that the task sets is then on the events of the request, and the other way
    round. The scope has the tags ``workerpool.pool`` and ``workerpool.task``.

    Args:
        capture_errors: Whether what a task raises is sent to Sentry from here. Its future raises it as well:
            an application that reads all its futures reports errors there, or handles them.

    Source: sentry_sdk.isolation_scope, docs.sentry.io/platforms/python/enriching-events/scopes/
    """
    with sentry_sdk.isolation_scope() as scope:
        task = current_task()
        if task is not None:
            scope.set_tag("workerpool.pool", task.pool)
            scope.set_tag("workerpool.task", task.name)
        try:
            yield
        except Exception as error:
            if capture_errors:
                sentry_sdk.capture_exception(error)
            raise
