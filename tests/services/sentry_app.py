"""Tasks that report to Sentry. Prints the events as JSON, under the name of what has happened."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from prodpool import InstrumentedPool
from prodpool.config.around import Around
from prodpool.integrations.sentry import task_scope
from prodpool.testing import flush_telemetry

events: list[Any] = []


class Collector(Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep an event."""
        events.append(envelope.get_event())


def work(customer: str) -> None:
    """Do something for a customer, and say so."""
    sentry_sdk.set_tag("customer", customer)
    sentry_sdk.capture_message(f"task for {customer}")


def fail(error: BaseException) -> None:
    """Fail."""
    raise error


def two(pool: InstrumentedPool, error: type[BaseException]) -> None:
    """Let two tasks fail in the same way, for different reasons."""
    for number in (1, 2):
        future = pool.options(task=f"fail {number}").submit(fail, error(number))
        assert future.exception() is not None
    flush_telemetry(pool)


def scopes(pool: InstrumentedPool) -> None:
    """Work for two customers within one request."""
    with sentry_sdk.isolation_scope() as request:
        request.set_tag("request", "r-1")
        for customer in ("acme", "umbrella"):
            pool.options(task="work").submit(work, customer).result()
        sentry_sdk.capture_message("request")


def log_lines(pool: InstrumentedPool) -> None:
    """Have two lines each of two log events at level ERROR."""
    two(pool, SystemExit)
    for number in (1, 2):
        pool.submit(int).add_done_callback(lambda _, number=number: fail(ValueError(number)))  # type: ignore[misc]
    flush_telemetry(pool)


def main() -> None:
    """Let each of them happen, to a pool of its own."""
    sentry_sdk.init(dsn="http://key@localhost/1", transport=Collector)
    happenings: dict[str, tuple[Callable[[InstrumentedPool], None], Around]] = {
        "scopes": (scopes, task_scope),
        "log_lines": (log_lines, task_scope),
        "not_captured": (partial(two, error=ValueError), task_scope),
        "captured": (partial(two, error=ValueError), partial(task_scope, capture_errors=True)),
    }
    happened = {}
    for name, (happening, around) in happenings.items():
        with InstrumentedPool(ThreadPoolExecutor(1), name=name, around=around) as pool:
            happening(pool)
        happened[name] = list(events)
        events.clear()
    json.dump(happened, sys.stdout, default=repr)


if __name__ == "__main__":
    main()
