"""Every query of the runbook runs, and shows something of a service that is busy."""

from __future__ import annotations

import math
import re
import time

import pytest

from tests.observe.prometheus import Prometheus
from tests.observe.questions import RULES, runbook_queries

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.mark.parametrize("query", runbook_queries(), ids=lambda query: re.sub(r"\W+", "_", query)[:60])
def test_a_query_runs(query: str, prometheus: Prometheus) -> None:
    """Prometheus understands it and, but for the alerts' own conditions, answers with a number."""
    found = prometheus.query(query, at=time.time())
    if query not in RULES:
        assert found
        assert not all(math.isnan(sample.value) for sample in found), "nothing but NaN"
