"""What the dashboards ask is answered by a real Prometheus that has scraped real, busy pools."""

from __future__ import annotations

import math
import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from prodpool.telemetry import metrics as catalogue
from tests.dashboards.boards import FILES, Asked, View, asked, selectors, variables
from tests.observe.child import get
from tests.observe.prometheus import Prometheus
from tests.observe.questions import answer
from tests.observe.rig import JOB

pytestmark = [pytest.mark.once, pytest.mark.timeout(120)]

POOLS = ("card_payments", "image_resize", "nightly_import", "report_builder", "webhook_delivery")
# Where no answer is an answer, and why.
MAY_BE_EMPTY = {
    ("overview", 33): "no queue need be growing",
}

each_expression = pytest.mark.parametrize("one", [one for file in FILES for one in asked(file)], ids=str)


def checked(prometheus: Prometheus, one: Asked, view: View) -> bool:
    """Ask; fail if an answer is no number; tell whether there was one."""
    values = answer(prometheus, one, view)
    assert [value for value in values if not math.isfinite(value)] == []
    return bool(values)


@each_expression
def test_a_panel_has_data(prometheus: Prometheus, one: Asked) -> None:
    """With everything chosen, an expression yields numbers, none of them NaN or infinite."""
    views = [View(chosen={"pool": pool} if one.file == "pool" else {}) for pool in POOLS]
    found = [checked(prometheus, one, view) for view in (views if one.file == "pool" else views[:1])]
    if (one.file, one.place) not in MAY_BE_EMPTY:
        assert any(found)


@each_expression
def test_a_panel_has_data_of_what_is_chosen(prometheus: Prometheus, busy: list[str], one: Asked) -> None:
    """With several jobs, instances and pools chosen, or one, an expression yields numbers of those alone."""
    pools: list[str] = ["image_resize", "webhook_delivery"]
    view = View(
        chosen={"job": JOB, "instance": busy, "pool": "image_resize" if one.file == "pool" else pools},
        seconds=3600,
        points=600,
    )
    expr = view.expand(one.file, one.expr)
    assert "(" + "|".join(address.replace(".", r"\\.") for address in busy) + ")" in expr
    found = checked(prometheus, one, view)
    # A wait for a slot is something that only one pool offers its callers.
    if (one.file, one.place) not in {*MAY_BE_EMPTY, ("pool", 45)}:
        assert found
    if isinstance(one.place, int) and "instance" in expr:
        nowhere = View(chosen={"instance": "nowhere:1", "pool": "none_such"})
        # Save for the number of alerts, which is then 0.
        assert checked(prometheus, one, nowhere) is ((one.file, one.place) == ("overview", 16))


@pytest.mark.parametrize("label", ["instance", "job"])
def test_the_chosen_label_is_compared(prometheus: Prometheus, busy: list[str], label: str) -> None:
    """The row Compare has a line for each value of the label that was written into its variable."""
    wanted = {"instance": sorted(busy), "job": [JOB]}[label]
    view = View(chosen={"pool": "image_resize", "compare": label})
    compared = [one for one in asked("pool") if isinstance(one.place, int) and one.place // 10 == 8]
    assert len(compared) == 4
    for one in compared:
        found = prometheus.query(view.expand("pool", one.expr), time.time())
        assert sorted(sample.labels[label] for sample in found) == wanted


def test_the_settings_are_what_the_pool_was_told(prometheus: Prometheus, busy: list[str]) -> None:
    """The table says how many instances were told what."""
    (one,) = (one for one in asked("pool") if one.place == 91)
    found = prometheus.query(View(chosen={"pool": "image_resize"}).expand("pool", one.expr), time.time())
    rows = {(row.labels["knob"], row.labels["setting"]): row.value for row in found}
    assert {("max_workers", "2"), ("overload:reject", "1")} <= set(rows)
    assert set(rows.values()) == {len(busy)}


@pytest.mark.parametrize("file", FILES)
def test_the_lists_are_filled(prometheus: Prometheus, busy: list[str], file: str) -> None:
    """Each variable's query returns what there is to choose."""
    wanted = {"job": [JOB], "instance": sorted(busy), "pool": list(POOLS)}
    for name, values in wanted.items():
        query = View(chosen={"pool": "any"}).expand(file, variables(file)[name]["query"]["query"])
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found is not None
        assert prometheus.label_values(found[2], found[1]) == values


def used() -> set[str]:
    """Return the names of the metrics that any dashboard asks for."""
    view = View(chosen={"pool": "any"})
    return {
        found.name
        for file in FILES
        for one in asked(file)
        for found in selectors(view.expand(file, one.expr))
    }


def test_every_metric_is_shown(busy: list[str]) -> None:
    """Each family that a pool exports is on a dashboard; none is exported that nobody looks at."""
    status, page = get(int(busy[0].rpartition(":")[2]), "/metrics")
    assert status == 200
    families = {
        family.name: {sample.name for sample in family.samples}
        for family in text_string_to_metric_families(page.decode())
        if family.name.startswith("workerpool_")
    }
    specified = {spec.name.removesuffix("_total") for spec in (*catalogue.COUNTERS, *catalogue.GAUGES)}
    assert set(families) == specified | {spec.name for spec in catalogue.HISTOGRAMS}
    asked_for = used()
    assert {name for name, samples in families.items() if not samples & asked_for} == set()


def test_every_metric_shown_is_there(prometheus: Prometheus) -> None:
    """Each name that a dashboard asks for is one that Prometheus has scraped."""
    assert used() - set(prometheus.label_values("__name__")) == set()


def test_every_label_value_asked_for_is_there(prometheus: Prometheus) -> None:
    """A result, reason or state that a dashboard names is one that the pools export."""
    view = View(chosen={"pool": "any"})
    for one in (one for file in FILES for one in asked(file)):
        for found in selectors(view.expand(one.file, one.expr)):
            for label, matcher in found.matchers:
                if label in {"result", "reason", "state", "le"}:
                    there = set(prometheus.label_values(label, found.name))
                    named = set(re.sub(r"^(=~|!~|!=|=)", "", matcher).split("|"))
                    assert named <= there, one
