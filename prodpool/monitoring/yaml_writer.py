"""Writes maps, lists, words and numbers as YAML: the one shape that rule files have.

PyYAML is no core dependency, and its writer folds expressions into lines that are hard to read. The tests
read everything written here back with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

Value = str | int | float | bool | Mapping[str, "Value"] | Sequence["Value"]

# Cannot be taken for anything but a word, in YAML 1.1 either, to which `on`, `no` and `1_000` are none.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*|[0-9]+(ms|[smhd])")
_QUOTABLE = re.compile(r"[ -&(-~]*\"[ -&(-~]*")  # printable, with a double quote and without a single one
_NO_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


def to_yaml(value: Mapping[str, Value], head: str = "") -> str:
    """Return a YAML document; ``head`` is put before it as a comment."""
    comment = "".join(f"# {line}\n" if line else "#\n" for line in head.splitlines())
    return comment + "\n".join(_block(value)) + "\n"


def _block(value: Value) -> Iterator[str]:
    """Yield the lines of a value that is not empty."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _entry(f"{_scalar(key)}:", each, deeper="  ")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            lines = iter(_block(each)) if _nested(each) else iter(_text(each))
            yield f"- {next(lines)}"
            yield from (f"  {line}" if line else "" for line in lines)
    else:
        yield from _text(value)


def _entry(key: str, value: Value, deeper: str) -> Iterator[str]:
    if _nested(value):
        yield key
        yield from (f"{deeper}{line}" if line else "" for line in _block(value))
    else:
        first, *rest = _text(value)
        yield f"{key} {first}"
        yield from (f"{deeper}{line}" if line else "" for line in rest)


def _nested(value: Value) -> bool:
    return isinstance(value, Mapping | Sequence) and not isinstance(value, str) and bool(value)


def _text(value: Value) -> list[str]:
    if isinstance(value, str) and "\n" in value:
        return ["|-", *value.splitlines()]
    return [_scalar(value)]


def _scalar(value: Value) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_WORDS:
        return value
    if isinstance(value, str) and _QUOTABLE.fullmatch(value):
        return f"'{value}'"
    if isinstance(value, str):
        return f'"{"".join(map(_character, value))}"'
    return json.dumps(value)  # which YAML reads alike, the empty map and the empty list included


def _character(one: str) -> str:
    if one in '"\\':
        return f"\\{one}"
    return one if one.isprintable() else f"\\U{ord(one):08x}"
