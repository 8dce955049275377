"""The dashboards keep the rules that Grafana's dashboard-linter has for Prometheus, and ours on top.

Source: github.com/grafana/dashboard-linter, lint/rule_*.go; the names of the tests are those of its rules.
"""

from __future__ import annotations

from typing import Any

import promql_parser
import pytest

from tests.dashboards.boards import FILES, Asked, Selector, View, asked, board, panels, selectors, variables

pytestmark = pytest.mark.once

SOURCE = {"type": "prometheus", "uid": "$datasource"}
# An interval that no window has by chance. Seconds.
MAGIC = 7919
# A selector may lack the dashboard's matcher only for a reason.
LOOSER = {
    # An alert about all instances of a pool has no label of that name: the empty value has to match, too.
    ("ALERTS", "instance"): "=~$instance|",
}
UNITS = {"percentunit", "ops", "s", "short", "none", "bytes"}

each_board = pytest.mark.parametrize("file", FILES)
each_expression = pytest.mark.parametrize("one", [one for file in FILES for one in asked(file)], ids=str)


def literal(one: Asked) -> list[Selector]:
    """Return the selectors with the variables that stand for labels left as they are written."""
    expr = one.expr.replace("$__rate_interval", f"{MAGIC}s").replace("$__interval", "1s")
    for name, value in (
        ("$__range_s", "300"),
        ("$__range", "300s"),
        ("$slo", "0.995"),
        ("$compare", "instance"),
    ):
        expr = expr.replace(name, value)
    return selectors(expr)


@each_board
def test_template_datasource(file: str) -> None:
    """The one data source variable comes first and is called as every dashboard calls it."""
    first = board(file)["templating"]["list"][0]
    assert (first["name"], first["label"], first["type"], first["query"]) == (
        "datasource",
        "Data source",
        "datasource",
        "prometheus",
    )
    assert [one["type"] for one in variables(file).values()].count("datasource") == 1


@each_board
@pytest.mark.parametrize("name", ["job", "instance", "pool"])
def test_template_job_and_instance(file: str, name: str) -> None:
    """A label's variable asks the chosen data source and takes several values or a cheap "all"."""
    variable = variables(file)[name]
    assert (variable["type"], variable["datasource"], variable["label"]) == ("query", SOURCE, name.title())
    several = (file, name) != ("pool", "pool")  # which is about one pool
    assert (variable["multi"], variable["includeAll"]) == (several, several)
    assert variable.get("allValue") == (".+" if several else None)


@each_board
def test_template_label_promql(file: str) -> None:
    """A label's variable reads that label of a selector which parses and heeds the variables before it."""
    for number, name in enumerate(("job", "instance", "pool")):
        variable = variables(file)[name]
        query = variable["query"]["query"]
        selector, _, label = query.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        assert label == name
        (found,) = selectors(selector)
        wanted = {(other, f"=~${other}") for other in ("job", "instance")[:number]}
        assert found.matchers == wanted


@each_board
def test_template_on_time_change_reload(file: str) -> None:
    """The lists follow the time range, so that a pool of last week can be chosen for last week."""
    asking = [one for one in variables(file).values() if one["type"] == "query"]
    assert [one["refresh"] for one in asking] == [2, 2, 2]


@each_board
def test_panel_datasource(file: str) -> None:
    """Panels, their targets and the annotations ask the chosen data source."""
    shown: list[dict[str, Any]] = [*panels(file), *board(file)["annotations"]["list"]]
    shown += [target for panel in panels(file) for target in panel["targets"]]
    assert [one for one in shown if one["datasource"] != SOURCE] == []


@each_board
def test_panel_title_description(file: str) -> None:
    """Each panel has a title of its own and says in a sentence what it shows, and in another what to do."""
    titles = [panel["title"] for panel in panels(file)]
    assert len(set(titles)) == len(titles)
    for panel in panels(file):
        description = panel["description"]
        assert description.endswith("."), panel["title"]
        assert description.count(". ") + description.count(".\n") >= 1, panel["title"]


@each_board
def test_panel_units(file: str) -> None:
    """Each panel has one of Grafana's units; a heatmap has it on its axis."""
    for panel in panels(file):
        options = panel["options"]
        unit = options["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert unit["unit"] in UNITS, panel["title"]


@each_board
def test_panel_no_targets(file: str) -> None:
    """Each panel asks for something, and its targets can be told apart."""
    for panel in panels(file):
        names = [target["refId"] for target in panel["targets"]]
        assert names, panel["title"]
        assert names == [chr(ord("A") + number) for number in range(len(names))]
        assert all(target["expr"] for target in panel["targets"])


@each_expression
def test_target_promql(one: Asked) -> None:
    """Each expression parses, with the variables filled in."""
    promql_parser.parse(View(chosen={"pool": "test"}).expand(one.file, one.expr))


@each_expression
def test_target_rate_interval(one: Asked) -> None:
    """Every rate is taken over $__rate_interval, which holds four scrapes at least."""
    rates = [found for found in literal(one) if {"rate", "irate"} & set(found.calls[-1:])]
    assert [found for found in rates if found.window != MAGIC] == []


@each_expression
@pytest.mark.parametrize("label", ["job", "instance"])
def test_target_job_and_instance(one: Asked, label: str) -> None:
    """Each selector heeds what was chosen; so does each of a pool's metrics the pool."""
    for found in literal(one):
        assert (label, LOOSER.get((found.name, label), f"=~${label}")) in found.matchers
        if not found.name.startswith("process_"):
            assert ("pool", "=~$pool") in found.matchers


@each_expression
def test_target_counter_agg(one: Asked) -> None:
    """A counter is never shown as it stands, but as a rate or an increase."""
    counters = [
        found for found in literal(one) if found.name.endswith(("_total", "_bucket", "_count", "_sum"))
    ]
    grown = ("rate", "irate", "increase")
    assert [found for found in counters if not found.calls or found.calls[-1] not in grown] == []


@each_board
def test_uneditable(file: str) -> None:
    """What is provisioned is changed in its source."""
    assert board(file)["editable"] is False


# What follows is ours.


@each_board
def test_the_variables_have_one_order(file: str) -> None:
    """The same variables in the same order everywhere, so that a link carries a choice over."""
    compared = ["compare"] if file == "pool" else []
    assert list(variables(file)) == ["datasource", "job", "instance", "pool", "slo", *compared, "runbook"]
    objective = variables(file)["slo"]
    assert (objective["current"]["value"], variables(file)["runbook"]["hide"]) == ("0.995", 2)


@each_board
def test_it_can_be_provisioned_as_it_is(file: str) -> None:
    """Nothing in it waits to be filled in by an import; every Grafana since 8 reads its form."""
    text = str(board(file))
    assert "__inputs" not in board(file)
    assert "${DS_" not in text
    assert "inControlsMenu" not in text
    assert board(file)["schemaVersion"] <= 42
    assert board(file)["graphTooltip"] == 1
    assert board(file)["uid"] == f"prodpool-{file}"


@each_board
def test_ids_are_explicit_and_unique(file: str) -> None:
    """Rows are 10, 20 ..., and the panels of a row count on from it: runbook and alerts link to them."""
    row = 0
    found = [panel["id"] for panel in board(file)["panels"]]
    assert len(set(found)) == len(found)
    for panel in board(file)["panels"]:
        if panel["type"] == "row":
            assert panel["id"] == row + 10
            row = panel["id"]
        else:
            assert row < panel["id"] < row + 10


@each_board
def test_panels_lie_side_by_side(file: str) -> None:
    """No panel covers another or leaves the 24 columns, and each row is filled."""
    taken: set[tuple[int, int]] = set()
    for panel in board(file)["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))
    assert len(taken) == 24 * (max(y for _, y in taken) + 1)


@each_board
def test_links_and_annotations(file: str) -> None:
    """Each dashboard leads to its siblings and the runbook, and marks firing alerts and starts."""
    siblings, runbook = board(file)["links"]
    assert (siblings["type"], siblings["tags"], siblings["includeVars"]) == ("dashboards", ["prodpool"], True)
    assert (runbook["type"], runbook["url"]) == ("link", "${runbook}")
    assert "prodpool" in board(file)["tags"]
    annotations = board(file)["annotations"]["list"]
    assert [one["name"] for one in annotations if one["enable"]] == ["Firing alerts", "Starts"]


@each_expression
def test_a_ratio_has_a_guarded_denominator(one: Asked) -> None:
    """A division by a series is guarded by ``> 0``: there is a gap where there was nothing, and no NaN."""
    tree = promql_parser.parse(View(chosen={"pool": "test"}).expand(one.file, one.expr))
    for divisor in divisors(tree):
        assert guarded(divisor), divisor


@each_expression
def test_series_are_not_added_with_plus(one: Asked) -> None:
    """Sums are written ``sum(a or b)``: with a plus, a missing series makes the whole sum vanish."""
    tree = promql_parser.parse(View(chosen={"pool": "test"}).expand(one.file, one.expr))
    assert [
        node for node in walk(tree) if isinstance(node, promql_parser.BinaryExpr) and str(node.op) == "+"
    ] == []


def walk(node: Any) -> list[Any]:
    """Return an expression and all in it."""
    inner: list[Any] = []
    if isinstance(node, promql_parser.BinaryExpr):
        inner = [node.lhs, node.rhs]
    elif isinstance(node, promql_parser.Call):
        inner = list(node.args)
    elif hasattr(node, "expr"):
        inner = [node.expr]
    return [node, *(found for one in inner for found in walk(one))]


def divisors(tree: Any) -> list[Any]:
    """Return what is divided by in an expression, less the numbers."""
    divided = [one for one in walk(tree) if isinstance(one, promql_parser.BinaryExpr) and str(one.op) == "/"]
    return [one.rhs for one in divided if any(selectors(str(one.rhs)))]


def guarded(divisor: Any) -> bool:
    """Tell whether a divisor is a comparison ``(... > 0)``."""
    while isinstance(divisor, promql_parser.ParenExpr):
        divisor = divisor.expr
    return (
        isinstance(divisor, promql_parser.BinaryExpr)
        and str(divisor.op) == ">"
        and isinstance(divisor.rhs, promql_parser.NumberLiteral)
        and divisor.rhs.val == 0
    )
