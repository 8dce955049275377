"""The webhook delivery service: one process, one pool, two ports, and an orderly end.

``python -m examples.webhook_service.service --customer acme=http://127.0.0.1:9000/hooks/acme``

On SIGTERM or SIGINT it closes its intake, drains the pool against ``--drain-deadline``, lets one more scrape
read the final numbers, and exits with 0 within the deadline + 1 second, whatever a customer does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from prometheus_client import CollectorRegistry

import prodpool
from prodpool import BreakerPolicy, InstrumentedPool

from .arguments import count, output_file, port, seconds, target
from .delivery import Deliverer
from .intake import IntakeServer
from .observability import OpsServer, close_spans, json_logs, spans_to
from .servers import hold_stop_signals, wait_until_told

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

POOL_NAME = "webhook_delivery"
# What the exit may take beside the drain; together well under a second.
INTAKE_GRACE = 0.25
LAST_SCRAPE_GRACE = 0.25
SPANS_GRACE = 0.2


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; every default is one a real service could start with."""
    parser = argparse.ArgumentParser(prog="webhook_service", description="Deliver webhooks to customers.")
    add = parser.add_argument
    add("--customer", type=target, action="append", metavar="NAME=URL", required=True, help="may be repeated")
    add("--port", type=port, default=0, help="intake; 0 (the default) takes any free one")
    add("--metrics-port", type=port, default=0, help="/metrics, /healthz and /readyz; 0 takes any free one")
    add("--workers", type=count(1), default=50, help="deliveries at the same time (default 50)")
    add("--queue-capacity", type=count(0), help="webhooks that may wait (default 2 x workers)")
    times: tuple[tuple[str, Callable[[str], float], float, str], ...] = (
        ("--drain-deadline", seconds(), 25.0, "for stopping"),
        ("--delivery-timeout", seconds(positive=True), 10.0, "per delivery"),
        ("--slow-after", seconds(finite=False), 0.5, "until a delivery is logged as slow"),
        ("--hung-after", seconds(positive=True, finite=False), 60.0, "until a delivery counts as hung"),
        ("--breaker-open-for", seconds(positive=True), 10.0, "until it probes again"),
    )
    for option, kind, default, what in times:
        add(option, type=kind, default=default, metavar="SECONDS", help=f"{what} (default {default:g})")
    add("--hang-for-ever", action="store_true", help="no delivery timeout at all: the incident")
    add(
        "--backend",
        choices=("daemon", "executor"),
        default="daemon",
        help="our threads, or a wrapped executor",
    )
    add("--log-file", type=output_file, help="JSON lines (default: stderr)")
    add("--span-file", type=output_file, help="spans as JSON lines (default: no tracing)")
    add("--stop-with-stdin", action="store_true", help="also stop when stdin closes (for a parent's sake)")
    options = parser.parse_args(argv)
    names = Counter(name for name, _ in options.customer)
    if twice := [name for name, number in names.items() if number > 1]:
        parser.error(f"argument --customer: {twice[0]!r} is named twice")
    return options


def build_pool(
    options: argparse.Namespace, registry: CollectorRegistry, provider: TracerProvider | None, logger: Any
) -> InstrumentedPool:
    """Make the one pool that all deliveries share."""
    settings: dict[str, Any] = {
        "name": POOL_NAME,
        "queue_capacity": options.queue_capacity,
        "slow_after": options.slow_after,
        "hung_after": options.hung_after,
        "drain_deadline": options.drain_deadline,
        # One customer that fails is no reason to stop delivering to the others; most of them failing is. So
        # the breaker looks at a share of the latest deliveries, and not at failures in a row, which one bad
        # customer can cause.
        "breaker": BreakerPolicy(
            consecutive_failures=None,
            failure_rate=0.6,
            window=30,
            minimum_calls=20,
            open_for=options.breaker_open_for,
            half_open_permits=3,
            successes_to_close=3,
        ),
        "registry": registry,
        "tracer_provider": provider,
        "logger": logger,
    }
    if options.backend == "executor":
        return InstrumentedPool(ThreadPoolExecutor(options.workers), **settings)
    return prodpool.threads(max_workers=options.workers, **settings)


class Service:
    """Everything that runs, in the order in which it is started and the reverse of which it stops."""

    def __init__(self, options: argparse.Namespace, logger: Any) -> None:
        """Open the ports and start the pool; nothing is accepted before `start`."""
        self._log = logger
        self._deadline: float = options.drain_deadline
        self._spans = spans_to(options.span_file) if options.span_file else None
        tracer = (self._spans or trace.NoOpTracerProvider()).get_tracer("webhook_service")
        registry = CollectorRegistry()
        self.pool = build_pool(options, registry, self._spans, logger)
        self._deliverer = Deliverer(
            dict(options.customer),
            workers=options.workers,
            timeout=None if options.hang_for_ever else options.delivery_timeout,
        )
        self.ops = OpsServer(options.metrics_port, registry, lambda: str(self.pool.stats().state))
        self.intake = IntakeServer(options.port, self.pool, self._deliverer, tracer)

    def start(self) -> None:
        """Answer probes first, then take webhooks."""
        self.ops.start()
        self.intake.start()
        self._log.info("service.started", port=self.intake.server_port, metrics_port=self.ops.port)

    def stop(self) -> None:
        """Close the intake, drain the pool, wait for a last scrape, end.

        A drain never ends while the intake is still open, and nobody reads numbers that are gone before the
        last scrape.
        """
        began = time.monotonic()
        answered = self.intake.stop(INTAKE_GRACE)
        report = self.pool.stop(self._deadline)
        # Beside the wait for a scrape: both have to fit into the second that is left after the deadline.
        spans = close_spans(self._spans) if self._spans is not None else None
        scraped = self.ops.wait_for_last_scrapes(LAST_SCRAPE_GRACE)
        self.ops.stop()
        self.intake.hang_up()
        self._deliverer.close()
        self._log.info(
            "service.stopped",
            drained=report.drained,
            completed=report.completed,
            dropped=report.dropped,
            abandoned=list(report.abandoned),
            requests_answered=answered,
            last_scrape=scraped,
            elapsed=round(time.monotonic() - began, 3),
        )
        if spans is not None:
            spans.join(SPANS_GRACE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop."""
    options = parse_arguments(argv)
    hold_stop_signals()
    stream = options.log_file.open("a", buffering=1, encoding="utf-8") if options.log_file else sys.stderr
    logger = json_logs(stream)
    service = Service(options, logger)
    service.start()
    ports = {"port": service.intake.server_port, "metrics_port": service.ops.port, "pid": os.getpid()}
    print(json.dumps(ports), flush=True)
    received = wait_until_told(stop_with_stdin=options.stop_with_stdin)
    logger.info("service.stopping", signal=received.name)
    service.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
