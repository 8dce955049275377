"""Adds matchers and labels to PromQL that the package ships.

Not a parser of all of PromQL: only what cannot be mistaken is read, and anything else raises, so that no
selector is ever left as it was without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<blank> \s+ | \#[^\n]* )
    | (?P<string> "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | `[^`]*` )
    | (?P<window> \[[^\[\]]*\] )
    | (?P<number> (?:\d|\.\d)[\w.]*(?:(?<=[eE])[-+]\d+)? )
    | (?P<variable> \$\w+ | \$\{\w+\} )
    | (?P<name> [a-zA-Z_:][a-zA-Z0-9_:]* )
    | (?P<mark> =~ | !~ | == | != | <= | >= | [-+*/%^(){},=<>@] )
    """,
    re.VERBOSE,
)
_LABEL_LISTS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "atan2", "offset", "bool", "inf", "nan"}
_MATCHER = ("name", "mark", "string")
_MATCHES = {"=", "!=", "=~", "!~"}
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


class SelectorError(ValueError):
    """Raised when an expression is not of the form that matchers can be added to."""

    def __init__(self, expr: str, reason: str) -> None:
        super().__init__(f"{reason} in the query {expr!r}: this is a mistake in prodpool, please report it")


@dataclass(slots=True)
class _Token:
    kind: str
    text: str


def any_of(values: Sequence[str]) -> str:
    """Return a regular expression (RE2) that matches each of the values literally, and nothing else."""
    return "|".join(_SPECIAL.sub(r"\\\g<0>", value) for value in values)


def matcher(label: str, operator: str, value: str) -> str:
    """Return ``label<operator>"value"`` with the value escaped as a PromQL string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{label}{operator}"{escaped}"'


def add_matchers(expr: str, matchers: Sequence[str]) -> str:
    """Return the expression with the matchers put first into each of its selectors.

    Raises:
        SelectorError: It holds something that is not understood, or no selector at all.
    """
    tokens = _tokens(expr)
    shown = [token for token in tokens if token.kind != "blank"]
    added, found, index = ", ".join(matchers), 0, 0
    while index < len(shown):
        token, follower = shown[index], _text(shown, index + 1)
        if token.kind == "name" and token.text.lower() in _LABEL_LISTS:
            index = _end_of_label_list(shown, index, expr)
        elif token.text == "{":
            inside, index = _matchers(shown, index, expr)
            token.text = f"{{{added}, " if inside else f"{{{added}"
            found += 1
        elif token.kind == "name" and _is_metric(token, follower) and follower != "{":
            token.text += f"{{{added}}}"
            found += 1
        elif token.text == "}":
            raise SelectorError(expr, "a brace is closed that was not opened")
        index += 1
    if not found:
        raise SelectorError(expr, "there is no selector")
    return "".join(token.text for token in tokens)


def add_grouping(expr: str, labels: Sequence[str], beside: Collection[str]) -> str:
    """Return the expression with the labels put first into each ``by`` and ``on`` that has one of ``beside``.

    A label that such a list has already is not added again.

    Raises:
        SelectorError: It holds something that is not understood.
    """
    tokens = _tokens(expr)
    shown = [token for token in tokens if token.kind != "blank"]
    for index, token in enumerate(shown):
        if token.kind == "name" and token.text.lower() in {"by", "on"}:
            end = _end_of_label_list(shown, index, expr)
            there = [one.text for one in shown[index + 2 : end] if one.kind == "name"]
            missing = [label for label in labels if label not in there]
            if missing and not set(beside).isdisjoint(there):
                shown[index + 1].text = f"({', '.join(missing)}, "
    return "".join(token.text for token in tokens)


def _tokens(expr: str) -> list[_Token]:
    found = list(_scan(expr))
    depth = 0
    for token in found:
        depth += (token.text == "(") - (token.text == ")")
        if depth < 0:
            break
    if depth:
        raise SelectorError(expr, "the parentheses do not match")
    return found


def _scan(expr: str) -> Iterator[_Token]:
    at = 0
    while at < len(expr):
        token = _TOKEN.match(expr, at)
        if token is None:
            raise SelectorError(expr, f"{expr[at : at + 10]!r} is not understood")
        yield _Token(str(token.lastgroup), token[0])
        at = token.end()


def _text(shown: Sequence[_Token], index: int) -> str:
    return shown[index].text if index < len(shown) else ""


def _is_metric(token: _Token, follower: str) -> bool:
    # An aggregation has its arguments or its labels behind it, a function its arguments.
    return token.text.lower() not in _WORDS and follower.lower() not in {"(", "by", "without"}


def _end_of_label_list(shown: Sequence[_Token], index: int, expr: str) -> int:
    """Return the index of the parenthesis that ends the list behind ``by`` and the like."""
    word = shown[index].text
    if _text(shown, index + 1) != "(":
        if word.startswith("group_"):
            return index
        raise SelectorError(expr, f"{word!r} has no list of labels")
    end = index + 2
    # A variable is a label that is chosen on the dashboard.
    while end < len(shown) and (shown[end].kind in {"name", "variable"} or shown[end].text == ","):
        end += 1
    if _text(shown, end) != ")":
        raise SelectorError(expr, f"the list behind {word!r} is not one of labels")
    return end


def _matchers(shown: Sequence[_Token], index: int, expr: str) -> tuple[bool, int]:
    """Return whether a pair of braces holds matchers, and the index of the closing one."""
    at = index + 1
    while tuple(token.kind for token in shown[at : at + 3]) == _MATCHER and shown[at + 1].text in _MATCHES:
        at += 3
        if _text(shown, at) != ",":
            break
        at += 1
    if _text(shown, at) != "}":
        raise SelectorError(expr, "a selector is not understood")
    return at > index + 1, at
