"""Dashboards exported for further labels ask a real Prometheus that sees pools of two clusters."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from prodpool.monitoring.export import dashboard_files
from prodpool.monitoring.thresholds import AlertThresholds
from tests.dashboards.boards import FILES, View, asked, variables
from tests.observe.prometheus import Prometheus
from tests.observe.questions import answer
from tests.observe.rig import JOB
from tests.observe.test_panels import MAY_BE_EMPTY

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Write the dashboards for the labels that the clusters have; return the folder."""
    for name, text in dashboard_files(AlertThresholds(namespace_label="cluster,namespace")).items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_every_query_is_answered(name: str, prometheus: Prometheus, exported: Path) -> None:
    """Every expression yields numbers with both clusters chosen and with one, and none with neither."""
    file = str(exported / name)
    for clusters in (["eu", "us"], "us", "nowhere"):
        view = View(chosen={"cluster": clusters, "namespace": "shop", "pool": "webhook_delivery"})
        found = {(one.place, one.title): answer(prometheus, one, view) for one in asked(file)}
        assert all(math.isfinite(value) for values in found.values() for value in values)
        filled = {place for (place, _), values in found.items() if values}
        if clusters == "nowhere":
            # The number of alerts is 0 then.
            assert filled <= ({16} if name == "overview" else set())
        else:
            # An alert is there for the pools that refuse, and one pool alone offers its callers a wait.
            unlikely = {place for each, place in MAY_BE_EMPTY if each == name} | {"Firing alerts", 45}
            assert filled >= {place for place, _ in found} - unlikely, clusters


def test_the_lists_are_filled_and_narrowed(prometheus: Prometheus, busy: list[str], exported: Path) -> None:
    """Each variable lists what there is, and with one cluster chosen only what is in that."""
    file = str(exported / "overview")

    def values(name: str, **chosen: str) -> list[str]:
        query = View(chosen=chosen).expand(file, variables(file)[name]["query"]["query"])
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        return prometheus.label_values(found[2], found[1])

    assert values("cluster") == ["eu", "us"]
    assert values("namespace", cluster="eu") == ["shop"]
    assert values("namespace", cluster="nowhere") == []
    assert values("job", namespace="shop") == [JOB]
    assert values("instance") == sorted(busy)
    assert values("instance", cluster="us") == [busy[1]]


def test_panels_tell_the_clusters_apart(prometheus: Prometheus, exported: Path) -> None:
    """A panel by pool has a line for the pool of each cluster; the committed one has one for both."""
    for folder, lines in ((str(exported / "overview"), {"eu", "us"}), ("overview", {None})):
        (one,) = (one for one in asked(folder) if one.title.startswith("Utilisation"))
        expr = View(chosen={"pool": "webhook_delivery"}).expand(folder, one.expr)
        assert {sample.labels.get("cluster") for sample in prometheus.query(expr)} == lines
