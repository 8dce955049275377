"""Starting what is observed: instances of the busy service, and when they have shown enough."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.observe.child import LOOPBACK, Child

JOB = "busy"
# The instances are in two clusters, which only what was exported for these labels heeds.
CLUSTERS = ({"cluster": "eu", "namespace": "shop"}, {"cluster": "us", "namespace": "shop"})
PROGRAM = Path(__file__).parent / "programs" / "busy.py"

# Yields something once each trouble was scraped: a panic, a refusal, an expiry, a loss at a stop, a hung
# task, and a breaker that was open and is closed again.
WARM = """
count(workerpool_completed_total{result="panic"} > 0)
and count(workerpool_dropped_total{reason="full"} > 0)
and count(workerpool_dropped_total{reason="expired"} > 0)
and count(max_over_time(workerpool_dropped_total{reason="shutdown"}[5m]) > 0)
and count(max_over_time(workerpool_hung_tasks[5m]) > 0)
and count(
  max_over_time(workerpool_breaker_state{state="open"}[5m])
  * on (instance, pool) workerpool_breaker_state{state="closed"} > 0
)
"""

# An alert that fires once a pool has refused tasks, for what shows alerts.
RULES = """
groups:
  - name: rig
    rules:
      - alert: PoolRefusing
        expr: increase(workerpool_dropped_total{reason="full"}[1m]) > 0
        labels: {severity: warning}
"""
# For longer than the six seconds between two points of a panel.
FIRING = 'count(ALERTS{alertname="PoolRefusing", alertstate="firing"} offset 8s)'


@contextmanager
def busy_services(folder: Path, instances: int) -> Iterator[list[str]]:
    """Run that many instances of the busy service; give their addresses."""
    with ExitStack() as running:
        services = [
            running.enter_context(
                Child([sys.executable, str(PROGRAM), str(seed)], folder / f"busy-{seed}.log")
            )
            for seed in range(1, instances + 1)
        ]
        ports = [service.wait_for(r"PORT (\d+)")[1] for service in services]
        yield [f"{LOOPBACK}:{port}" for port in ports]
