"""The dashboards as files, and what Grafana would ask the data source for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import promql_parser as promql

from tests.support import ROOT

FOLDER = ROOT / "dashboards"
FILES = ("overview", "pool", "capacity")


@cache
def board(file: str) -> dict[str, Any]:
    """Read a dashboard."""
    found: dict[str, Any] = json.loads((FOLDER / f"{file}.json").read_text())
    return found


def panels(file: str) -> list[dict[str, Any]]:
    """Return the panels of a dashboard, without its rows."""
    return [panel for panel in board(file)["panels"] if panel["type"] != "row"]


def variables(file: str) -> dict[str, dict[str, Any]]:
    """Return the variables of a dashboard by name, in their order."""
    return {variable["name"]: variable for variable in board(file)["templating"]["list"]}


@dataclass(frozen=True)
class Asked:
    """An expression of a dashboard and where it is.

    Attributes:
        place: The panel's id, or the annotation's name.
        title: What a person calls that place.
        now: Whether one value is asked for, rather than one for each point of the range.
    """

    file: str
    place: int | str
    title: str
    expr: str
    now: bool

    def __str__(self) -> str:
        return f"{self.file}-{self.place}-{self.title}".replace(" ", "_")


def asked(file: str) -> Iterator[Asked]:
    """Yield every expression of a dashboard: of its panels and of its annotations."""
    for panel in panels(file):
        for target in panel["targets"]:
            title = f"{panel['title']}-{target['refId']}"
            yield Asked(file, panel["id"], title, target["expr"], bool(target.get("instant")))
    for annotation in board(file)["annotations"]["list"]:
        yield Asked(file, annotation["name"], "annotation", annotation["expr"], now=False)


@dataclass(frozen=True)
class View:
    """What a person has chosen on a dashboard.

    Attributes:
        chosen: For each variable its value, or its values where there may be several; "$__all" for all.
        seconds: Length of the time range.
        points: Data points that a panel is wide.
        scrape: Seconds between two scrapes, as the data source is told.
    """

    chosen: Mapping[str, str | list[str]] = field(default_factory=dict)
    seconds: int = 300
    points: int = 300
    scrape: int = 1

    @property
    def interval(self) -> int:
        """The seconds between two points, which Grafana calls $__interval."""
        return max(self.scrape, -(-self.seconds // self.points))

    def expand(self, file: str, text: str) -> str:
        """Put the variables' values in, as Grafana does for a Prometheus data source.

        Source: grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/
        """
        rate = max(self.interval + self.scrape, 4 * self.scrape)
        values = {
            "__rate_interval": f"{rate}s",
            "__interval": f"{self.interval}s",
            "__range": f"{self.seconds}s",
            "__range_s": str(self.seconds),
        }
        for name, variable in variables(file).items():
            values[name] = self._value(name, variable)
        expanded = re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: values[match[1] or match[2]], text)
        assert "$" not in expanded, expanded
        return expanded

    def _value(self, name: str, variable: Mapping[str, Any]) -> str:
        chosen = self.chosen.get(name, "$__all" if variable.get("includeAll") else variable.get("query", ""))
        if chosen == "$__all":
            return str(variable["allValue"])
        if variable["type"] == "custom" and name not in self.chosen:
            return str(variable["current"]["value"])
        if not variable.get("multi"):
            return str(chosen)
        several = [escaped(one) for one in ([chosen] if isinstance(chosen, str) else chosen)]
        return several[0] if len(several) == 1 else f"({'|'.join(several)})"


def escaped(value: str) -> str:
    """Return a value in the form in which a regular expression in a PromQL string matches it literally."""
    return re.sub(r"[$^*{}\[\]'+?.()|]", r"\\\\\g<0>", value.replace("\\", "\\\\\\\\"))


@dataclass(frozen=True)
class Selector:
    """A selector of an expression, with the calls around it, outermost first; ``window`` in seconds."""

    name: str
    matchers: frozenset[tuple[str, str]]
    window: float | None
    calls: tuple[str, ...]


def selectors(expr: str) -> list[Selector]:
    """Return the selectors of an expression that holds no variables any more."""
    return list(_selectors(promql.parse(expr), ()))


def _selectors(node: Any, calls: tuple[str, ...]) -> Iterator[Selector]:
    match node:
        case promql.VectorSelector():
            yield _selector(node, calls, None)
        case promql.MatrixSelector():
            yield _selector(node.vector_selector, calls, node.range.total_seconds())
        case promql.Call():
            for argument in node.args:
                yield from _selectors(argument, (*calls, node.func.name))
        case promql.BinaryExpr():
            yield from _selectors(node.lhs, calls)
            yield from _selectors(node.rhs, calls)
        case promql.AggregateExpr() | promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            yield from _selectors(node.expr, calls)
        case promql.NumberLiteral() | promql.StringLiteral():
            return
        case _:
            raise TypeError(f"{node!r} is not known here")


def _selector(node: Any, calls: tuple[str, ...], window: float | None) -> Selector:
    matchers = frozenset(
        (one.name, f"{_OPERATORS[str(one.op)]}{one.value}") for one in node.matchers.matchers
    )
    return Selector(node.name or "", matchers, window, calls)


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
