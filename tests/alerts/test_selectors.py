"""Matchers and labels are put into every selector and list of a query, or the query is refused."""

from __future__ import annotations

import promql_parser
import pytest

from prodpool.monitoring.alerts import GROUPS
from prodpool.monitoring.model import render
from prodpool.monitoring.selectors import SelectorError, add_grouping, add_matchers, any_of, matcher
from prodpool.monitoring.thresholds import AlertThresholds
from tests.dashboards.boards import selectors

pytestmark = pytest.mark.once

RULES = [render(rule.expr, AlertThresholds()) for group in GROUPS for rule in group.rules]
ADDED = ['pool!="mail"', 'cluster=~"a|b"']


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("m", 'm{a="b"}'),
        ("m{}", 'm{a="b"}'),
        ('m{x="}", y!~"{,"}', 'm{a="b", x="}", y!~"{,"}'),
        ("m{x='1',}", "m{a=\"b\", x='1',}"),
        ('{__name__="m"} offset 5m', '{a="b", __name__="m"} offset 5m'),
        ("rate(m[5m]) > 1e-5", 'rate(m{a="b"}[5m]) > 1e-5'),
        ("avg_over_time((sum(m))[$__range:5s])", 'avg_over_time((sum(m{a="b"}))[$__range:5s])'),
        ("sum without (m) (m) unless on (m) n", 'sum without (m) (m{a="b"}) unless on (m) n{a="b"}'),
        ("sum(m) by (m)", 'sum(m{a="b"}) by (m)'),
        ("m * on (x) group_left (m) n", 'm{a="b"} * on (x) group_left (m) n{a="b"}'),
        ("m * on (x) group_left n", 'm{a="b"} * on (x) group_left n{a="b"}'),
        ("a:m:rate1h >= bool 1h and -Inf < m", 'a:m:rate1h{a="b"} >= bool 1h and -Inf < m{a="b"}'),
        ("m # of {x}\n or n", 'm{a="b"} # of {x}\n or n{a="b"}'),
        ("count(m) or vector(0)", 'count(m{a="b"}) or vector(0)'),
        ("sum by ($x, le) (m)", 'sum by ($x, le) (m{a="b"})'),
        ("m @ start() + time()", 'm{a="b"} @ start() + time()'),
    ],
)  # fmt: skip
def test_every_selector_gets_the_matchers(expr: str, expected: str) -> None:
    """Selectors are found wherever they are; names of functions, labels and words are left alone."""
    assert add_matchers(expr, ['a="b"']) == expected


@pytest.mark.parametrize("expr", RULES)
def test_the_rules_get_them(expr: str) -> None:
    """Prometheus's grammar finds the same selectors in each rule, each with the matchers added."""
    before, after = selectors(expr), selectors(add_matchers(expr, ADDED))
    assert before
    wanted = {("pool", "!=mail"), ("cluster", "=~a|b")}
    assert [one.matchers | wanted for one in before] == [one.matchers for one in after]
    assert [(one.name, one.window, one.calls) for one in before] == [
        (one.name, one.window, one.calls) for one in after
    ]


@pytest.mark.parametrize(
    "expr",
    ["", "1 + 1", "vector(0)", "m{x=1}", 'm{x="1" y="2"}', "m{x", "m}", "sum(m", "sum(m))", "m ? n",
     "sum by m", "sum by (m{})", 'm{"x"}', 'm{x="1}', "m[5m", "m{$x}", 'm{x=="1"}'],
)  # fmt: skip
def test_what_is_not_understood_is_refused(expr: str) -> None:
    """What has no selector, or may have one in a form not known, raises and names the query."""
    with pytest.raises(SelectorError, match="in the query"):
        add_matchers(expr, ['a="b"'])


def test_labels_join_the_lists_that_tell_pools_apart() -> None:
    """Lists with one of the labels named get the others once, in front; those without are totals and stay."""
    expr = "sum by (pool, le) (m) / on(pool) sum by (le) (m) + max by (eu, pool) (m) + sum without (pool) (m)"
    assert add_grouping(expr, ("eu",), ("job", "pool")) == (
        "sum by (eu, pool, le) (m) / on(eu, pool) sum by (le) (m) + max by (eu, pool) (m) "
        "+ sum without (pool) (m)"
    )
    with pytest.raises(SelectorError, match="not one of labels"):
        add_grouping("sum by (pool + 1) (m)", ("eu",), ("pool",))


def test_a_name_is_matched_literally() -> None:
    """What means something to RE2 or ends a PromQL string is escaped, for each of them."""
    assert matcher("pool", "!~", any_of(["mail", "a.b"])) == r'pool!~"mail|a\\.b"'
    assert matcher("pool", "=", 'a"\\b') == r'pool="a\"\\b"'
    promql_parser.parse(f"m{{{matcher('pool', '=~', any_of(['(', '$', ']']))}}}")
