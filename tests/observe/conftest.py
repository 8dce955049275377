"""The busy service and the Prometheus that scrapes it: one of each for the whole run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.observe.prometheus import Prometheus
from tests.observe.rig import CLUSTERS, FIRING, JOB, RULES, WARM, busy_services


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Run two instances of the busy service; return their addresses."""
    with busy_services(tmp_path_factory.mktemp("busy"), 2) as addresses:
        yield addresses


@pytest.fixture(scope="session")
def prometheus(busy: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Return a Prometheus that has seen the busy service go through its troubles."""
    folder = tmp_path_factory.mktemp("prometheus")
    rules = folder / "rig.rules.yml"
    rules.write_text(RULES)
    labels = dict(zip(busy, CLUSTERS, strict=True))
    with Prometheus(folder, {JOB: busy}, rule_files=[rules], labels=labels) as server:
        server.wait_for(WARM, timeout=60)
        server.wait_for(FIRING, timeout=60)
        yield server
