"""Requests whose tasks run in pools: started under `opentelemetry-instrument` by the test beside it.

The last line that it prints is JSON; the spans follow. It leaves a task behind that never ends.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from functools import wraps
from typing import Any

from opentelemetry import trace

import prodpool
from prodpool import InstrumentedPool

REQUESTS, WORKERS = 8, 2
submitted: Counter[str] = Counter()
current_in_workers: set[bool] = set()


def count_submits() -> None:
    """Count what the threads of executors are given, as one more agent would."""
    submit: Any = ThreadPoolExecutor.submit

    @wraps(submit)
    def counted(self: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        submitted[str(getattr(self, "_thread_name_prefix", ""))] += 1
        return submit(self, fn, *args, **kwargs)

    setattr(ThreadPoolExecutor, "submit", counted)  # noqa: B010  # it may not be assigned to, says mypy


def note_current(_: Future[Any]) -> None:
    """Note whether a span is current in the worker itself, which calls this when its task has ended."""
    current_in_workers.add(trace.get_current_span().get_span_context().is_valid)


def serve(pool: InstrumentedPool) -> None:
    """Answer requests in pairs, so that each worker works for one; then run tasks that belong to none."""
    both = threading.Barrier(WORKERS)

    def work() -> None:
        both.wait(30)
        trace.get_tracer("app").start_span("query").end()

    for number in range(REQUESTS // WORKERS):
        with trace.get_tracer("app").start_as_current_span(f"request {number}"):
            view = pool.options(task=f"{pool.name} {number}")
            for future in [view.submit(work) for _ in range(WORKERS)]:
                future.result(30)
    all_there = threading.Barrier(WORKERS + 1)
    view = pool.options(task=f"{pool.name} alone")
    alone = [view.submit(all_there.wait, 30) for _ in range(WORKERS)]
    for ended in alone:
        ended.add_done_callback(note_current)
    all_there.wait(30)


def main() -> None:
    """Serve with each kind of pool, and leave."""
    count_submits()
    hung = threading.Event()
    pools = [
        InstrumentedPool(ThreadPoolExecutor(WORKERS, "executor"), name="executor"),
        InstrumentedPool(
            lambda workers: ThreadPoolExecutor(workers, "factory"), max_workers=2, name="factory"
        ),
        prodpool.threads(name="threads", max_workers=WORKERS),
    ]
    reports = {}
    for pool in pools:
        serve(pool)
        pool.wait_idle(30)
        pool.options(task="hung").submit(hung.wait)
        reports[pool.name] = pool.stop(deadline=0.1).abandoned
    found = {"submitted": submitted, "current_in_workers": [*current_in_workers], "abandoned": reports}
    print(json.dumps(found), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
