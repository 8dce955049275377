"""Dashboards exported for further labels heed them everywhere, and keep apart by them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prodpool.monitoring.dashboard_labels import add_labels
from prodpool.monitoring.export import dashboard_files
from prodpool.monitoring.selectors import SelectorError
from prodpool.monitoring.thresholds import AlertThresholds
from tests.dashboards.boards import FILES, asked, board, panels, selectors, variables

pytestmark = pytest.mark.once

LABELS = AlertThresholds(namespace_label="cluster,namespace")
HEEDED = {("cluster", "=~$cluster"), ("namespace", "=~$namespace")}
NUMBERS = {"$__rate_interval": "4s", "$__range_s": "9", "$__range": "9s", "$__interval": "1s", "$slo": "0.9"}
CHOSEN = {"$compare": "version"}

each_board = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """Write the dashboards for two labels; return the folder."""
    for name, text in dashboard_files(LABELS).items():
        (tmp_path / name).write_text(text)
    return tmp_path


def literal(expr: str) -> str:
    """Return an expression with the variables that stand for no label replaced."""
    for variable, value in (NUMBERS | CHOSEN).items():
        expr = expr.replace(variable, value)
    return expr


@each_board
def test_every_selector_heeds_the_labels(name: str, exported: Path) -> None:
    """Each selector of each panel and annotation is the committed one and has a matcher for each label."""
    before = [found for one in asked(name) for found in selectors(literal(one.expr))]
    after = [found for one in asked(str(exported / name)) for found in selectors(literal(one.expr))]
    assert len(before) > 20
    assert [one.matchers | HEEDED for one in before] == [one.matchers for one in after]


@each_board
def test_a_variable_for_each_label(name: str, exported: Path) -> None:
    """They come before the job, each takes several values or all, and each narrows those after it."""
    found = variables(str(exported / name))
    compared = ["compare"] if name == "pool" else []
    labels = ["cluster", "namespace", "job", "instance", "pool"]
    assert list(found) == ["datasource", *labels, "slo", *compared, "runbook"]
    for label, title in (("cluster", "Cluster"), ("namespace", "Namespace")):
        variable = found[label]
        assert (variable["label"], variable["multi"], variable["includeAll"]) == (title, True, True)
        assert (variable["allValue"], variable["query"]["refId"]) == (".+", f"variable-{label}")
    queries = [found[one]["query"]["query"] for one in ("cluster", "namespace", "job", "instance", "pool")]
    chained = 'cluster=~"$cluster", namespace=~"$namespace"'
    assert queries == [
        "label_values(workerpool_info, cluster)",
        'label_values(workerpool_info{cluster=~"$cluster"}, namespace)',
        f"label_values(workerpool_info{{{chained}}}, job)",
        f'label_values(workerpool_info{{{chained}, job=~"$job"}}, instance)',
        f'label_values(workerpool_info{{{chained}, job=~"$job", instance=~"$instance"}}, pool)',
    ]


@each_board
def test_what_tells_pools_apart_tells_clusters_apart(name: str, exported: Path) -> None:
    """Each group by pool or instance is one by the labels as well, and the legend names them."""
    for panel in panels(str(exported / name)):
        for target in panel["targets"]:
            groups = [each.split(", ") for each in re.findall(r"by \(([^)]*)\)", target["expr"])]
            for group in groups:
                if {"pool", "instance"} & set(group):
                    assert group[:2] == ["cluster", "namespace"], panel["title"]
            if re.search("{{(pool|instance)}}", target["legendFormat"]):
                assert target["legendFormat"].startswith("{{cluster}} {{namespace}} {{"), panel["title"]
    texts = [one["textFormat"] for one in board(str(exported / name))["annotations"]["list"]]
    assert texts == [
        "{{severity}}: {{cluster}} {{namespace}} {{pool}} {{instance}}",
        "{{cluster}} {{namespace}} {{job}} {{instance}}",
    ]


def test_an_address_of_two_clusters_is_two_instances(exported: Path) -> None:
    """The panels of one instance have lines for each cluster, in the colours that the lines had."""
    (queue,) = (panel for panel in panels(str(exported / "pool")) if panel["title"] == "Queue")
    assert [target["expr"].partition("(w")[0] for target in queue["targets"]] == [
        "sum by (cluster, namespace) "
    ] * 2
    assert [one["legendFormat"] for one in queue["targets"]] == [
        "{{cluster}} {{namespace}} depth",
        "{{cluster}} {{namespace}} capacity",
    ]
    patterns = [one["matcher"]["options"] for one in queue["fieldConfig"]["overrides"]]
    assert patterns == ["/(^| )capacity$/", "/(^| )depth$/", "/(^| )capacity$/"]


def test_what_is_compared_is_as_chosen(exported: Path) -> None:
    """A panel that compares by a label of the reader's choice has no other label in its groups."""
    compared = [one for one in asked(str(exported / "pool")) if "$compare" in one.expr]
    assert len(compared) == 4
    for one in compared:
        groups = set(re.findall(r"by \(([^)]*)\)", one.expr))
        assert groups <= {"$compare", "$compare, le"}, one


@each_board
def test_links_carry_the_labels(name: str, exported: Path) -> None:
    """The links between the dashboards carry every variable, and no other has a choice in it."""
    siblings, runbook = board(str(exported / name))["links"]
    assert siblings["includeVars"] is True
    assert "var-" not in json.dumps([runbook, *panels(str(exported / name))])


@each_board
def test_nothing_else_changes(name: str, exported: Path) -> None:
    """With the labels taken out again, the text is the committed one, save for variables and instances."""
    text = json.dumps(whole(str(exported / name)))
    for added in (
        r"cluster=~\"$cluster\", namespace=~\"$namespace\", ",
        "cluster, namespace, ",
        "{{cluster}} {{namespace}} ",
    ):
        text = text.replace(added, "")
    assert text == json.dumps(whole(name))


def whole(file: str) -> list[dict[str, Any]]:
    """Return the panels that are not there once for each instance, which change in more than that."""
    return [one for one in panels(file) if not (file.endswith("pool") and 20 < one["id"] < 30)]


@pytest.mark.parametrize(
    "change",
    [
        ("label_values(workerpool_info, job)", "query_result(workerpool_info)"),
        ("sum (rate(workerpool_completed_total{job", "sum (rate(workerpool_completed_total{?job"),
        ('"description": "', '"description": "workerpool_info '),
        ('"url": "${runbook}"', '"url": "/d/prodpool-pool?var-job=$job"'),
    ],
    ids=["variable", "selector", "elsewhere", "link"],
)  # fmt: skip
def test_what_is_not_understood_is_refused(change: tuple[str, str]) -> None:
    """A query, or a link with a choice in it, in a form or place not known is not left without the labels."""
    text = json.dumps(board("overview"))
    assert change[0] in text
    with pytest.raises(SelectorError):
        add_labels(json.loads(text.replace(*change, 1)), ("cluster",))
