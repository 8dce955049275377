"""Puts further labels, such as the cluster, into a dashboard: variables, matchers, groups and legends.

The committed dashboards have none of them. What is not of the form that the package writes raises
`SelectorError`: a panel that forgot about a label would mix up what the others keep apart.
A group by a label that is chosen on the dashboard stays as it is: the choice is what is told apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

from prodpool.monitoring.selectors import SelectorError, add_grouping, add_matchers, matcher

Json = dict[str, Any]
# A list that has one of these tells services or processes apart, and the labels with them.
TOLD_APART = ("job", "instance", "pool")
_LEGEND = re.compile(r"\{\{(?:job|instance|pool)\}\}")
_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")
_TOTAL = re.compile(r"^(sum|max) (?=\()")


def add_labels(dashboard: Json, labels: Sequence[str]) -> None:
    """Have the dashboard heed the labels, the widest first, and keep apart by them what it keeps apart.

    Raises:
        SelectorError: Something in it is not of the form that the package writes.
    """
    matchers = [matcher(label, "=~", f"${label}") for label in labels]
    for panel, repeated in _panels(dashboard):
        for target in panel.get("targets", []):
            target["expr"] = add_grouping(add_matchers(target["expr"], matchers), labels, TOLD_APART)
            target["legendFormat"] = _with_labels(target["legendFormat"], labels)
        if repeated:
            _split(panel, labels)
    for annotation in dashboard["annotations"]["list"]:
        annotation["expr"] = add_matchers(annotation["expr"], matchers)
        annotation["textFormat"] = _with_labels(annotation["textFormat"], labels)
    variables: list[Json] = dashboard["templating"]["list"]
    for variable in variables:
        if variable["type"] == "query":
            _narrow(variable, matchers)
    _check(dashboard, matchers)
    _add_variables(variables, labels)


def _panels(dashboard: Json) -> Iterator[tuple[Json, bool]]:
    """Yield each panel, and whether it is there once for each instance."""
    repeated = False
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            repeated = panel.get("repeat") == "instance"
            yield from ((inner, repeated) for inner in panel.get("panels", []))
        else:
            yield panel, repeated


def _with_labels(legend: str, labels: Sequence[str]) -> str:
    shown = " ".join(f"{{{{{label}}}}}" for label in labels)
    return _LEGEND.sub(lambda found: f"{shown} {found[0]}", legend, count=1)


def _split(panel: Json, labels: Sequence[str]) -> None:
    """Give a panel of one instance a line for each value of the labels: clusters may share an address."""
    for target in panel["targets"]:
        expr, count = _TOTAL.subn(rf"\1 by ({', '.join(labels)}) ", target["expr"])
        if not count:
            raise SelectorError(target["expr"], "there is no sum or max to be split")
        target["expr"] = expr
        shown = " ".join(f"{{{{{label}}}}}" for label in labels)
        target["legendFormat"] = f"{shown} {target['legendFormat']}"
    for override in panel["fieldConfig"]["overrides"]:
        # The names of the lines end now with what they were.
        options = override["matcher"]["options"]
        override["matcher"] = {"id": "byRegexp", "options": f"/(^| ){options}$/"}


def _narrow(variable: Json, matchers: Sequence[str]) -> None:
    query = variable["query"]["query"]
    found = _VALUES.fullmatch(query)
    if found is None:
        raise SelectorError(query, "a variable's query is not understood")
    variable["query"]["query"] = (
        f"label_values({add_matchers(found['selector'], matchers)}, {found['label']})"
    )


def _check(dashboard: Json, matchers: Sequence[str]) -> None:
    """Raise where a query or a link with a job is left, in a place that nobody thought of."""
    for text in _strings(dashboard):
        if ('=~"$job"' in text or "workerpool_" in text) and not all(one in text for one in matchers):
            raise SelectorError(text, "a place for queries is not known")
        if "var-job" in text:
            raise SelectorError(text, "a link has no labels")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _add_variables(variables: list[Json], labels: Sequence[str]) -> None:
    """Put a variable for each label before that of the job, each narrowed by those before it."""
    (at,) = (index for index, variable in enumerate(variables) if variable["name"] == "job")
    for number, label in enumerate(labels):
        variable = deepcopy(variables[at + number])
        before = [matcher(other, "=~", f"${other}") for other in labels[:number]]
        selector = add_matchers("workerpool_info", before) if before else "workerpool_info"
        variable |= {"name": label, "label": label.replace("_", " ").capitalize()}
        variable["query"] |= {"query": f"label_values({selector}, {label})", "refId": f"variable-{label}"}
        variables.insert(at + number, variable)
