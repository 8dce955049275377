"""What the dashboards and the runbook ask of a Prometheus, and its answers."""

from __future__ import annotations

import re
import time

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.model import render
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage import signs_query
from tests.dashboards.boards import Asked, View
from tests.observe.prometheus import Prometheus
from tests.support import ROOT

# The alerts' own conditions, and the signs of trouble: that they have no answer says that all is well.
RULES = {
    *(render(alert.expr, AlertThresholds()) for alert in ALERTS),
    signs_query(AlertThresholds()),
}


def runbook_queries() -> list[str]:
    """Return each query of the runbook once: those in blocks, and those in the middle of a sentence."""
    page = (ROOT / "runbook.md").read_text()
    blocks = [block.strip() for block in re.findall(r"```promql\n(.*?)```", page, re.DOTALL)]
    inline = [code for code in re.findall(r"`([^`\n]+)`", page) if re.search(r"\(.*workerpool_", code)]
    assert len(blocks) > 40
    assert inline
    return list(dict.fromkeys(blocks + inline))


def answer(prometheus: Prometheus, one: Asked, view: View, at: float | None = None) -> list[float]:
    """Return every value of every series that a panel or annotation would draw, now or ``at`` a unix time."""
    expr, now = view.expand(one.file, one.expr), time.time() if at is None else at
    if one.now:
        return [sample.value for sample in prometheus.query(expr, now)]
    # Where the rates have two scrapes to stand on; an empty answer further back would prove nothing.
    lines = prometheus.query_range(expr, now - 8 * view.scrape, now, view.interval)
    return [value for line in lines for _, value in line.points]
