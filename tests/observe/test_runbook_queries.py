"""Every query of the runbook runs, and shows something of a service that is busy."""

from __future__ import annotations

import math
import re
import time

import pytest

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.model import render
from prodpool.monitoring.thresholds import AlertThresholds
from tests.observe.prometheus import Prometheus
from tests.support import ROOT

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

PAGE = (ROOT / "runbook.md").read_text()
RULES = {render(alert.expr, AlertThresholds()) for alert in ALERTS}


def queries() -> list[str]:
    """Return each query of the runbook once: those in blocks, and those in the middle of a sentence."""
    blocks = [block.strip() for block in re.findall(r"```promql\n(.*?)```", PAGE, re.DOTALL)]
    inline = [code for code in re.findall(r"`([^`\n]+)`", PAGE) if re.search(r"\(.*workerpool_", code)]
    assert len(blocks) > 40
    assert inline
    return list(dict.fromkeys(blocks + inline))


@pytest.mark.parametrize("query", queries(), ids=lambda query: re.sub(r"\W+", "_", query)[:60])
def test_a_query_runs(query: str, prometheus: Prometheus) -> None:
    """Prometheus understands it and, but for the alerts' own conditions, answers with a number."""
    found = prometheus.query(query, at=time.time())
    if query not in RULES:
        assert found
        assert not all(math.isnan(sample.value) for sample in found), "nothing but NaN"
