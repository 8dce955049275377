"""Write the tables of the reference anew: metrics, alerts, thresholds, options.

usage: python -m tools.reference_tables [--check]

Each is read from what the package itself exports, signs or writes, so that none can say what is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_type_hints

import prometheus_client
import yaml

import prodpool
from prodpool import cli
from tools.pages import table, write


def metrics() -> str:
    """Return the metrics as a registry hands them out for a new pool."""
    registry = prometheus_client.CollectorRegistry()
    backend, named = ThreadPoolExecutor(1), ("send_mail",)
    with prodpool.InstrumentedPool(
        backend, name="table", registry=registry, logger=_Silent(), task_metrics=named
    ):
        families = list(registry.collect())
    rows = []
    for family in families:
        ending = "_total" if family.type == "counter" else ""
        labels: dict[str, list[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                if label not in {"pool", "le"} and value not in labels.setdefault(label, []):
                    labels[label].append(value)
        shown = "; ".join(_label(*one) for one in labels.items())
        rows.append((f"`{family.name}{ending}`", family.type, shown, family.documentation))
    return table(("metric", "type", "labels beside `pool`", "meaning"), rows)


def _label(name: str, values: list[str]) -> str:
    free = {"backend", "version", "task", "knob"}
    return f"`{name}`" if name in free else f"`{name}`: {', '.join(f'`{value}`' for value in values)}"


class _Silent:
    """A logger that writes nothing."""

    def info(self, *_: Any, **__: Any) -> None:
        """Write nothing."""

    warning = error = info


def alerts() -> str:
    """Return the alerts as they are exported with the default thresholds."""
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()):
            cli.main(["export", "alerts", folder])
        text = Path(folder, "prodpool.rules.yml").read_text(encoding="utf-8")
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule]
    rows = [
        (
            f"[{rule['alert']}](../guides/runbook.md#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            re.sub(r"\{\{ \$labels\.pool \}\}", "*p*", rule["annotations"]["summary"]),
            rule.get("for", "at once"),
        )
        for rule in rules
    ]
    return table(("alert", "severity", "says", "after"), rows)


def thresholds() -> str:
    """Return the options of `prodpool export`, as its parser has them."""
    rows = []
    for action in _export_parser()._actions:  # noqa: SLF001  # argparse has no public way to list them
        if action.option_strings and action.metavar:
            meaning, _, default = str(action.help).rpartition(" (default: ")
            rows.append((f"`{action.option_strings[0]}`", meaning.replace("%%", "%"), default.rstrip(")")))
    return table(("option", "meaning", "default"), rows)


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="prodpool export")
    cli._add_export_arguments(parser)  # noqa: SLF001  # the table is of these
    return parser


def pool_options() -> str:
    """Return the options of a pool, and which ready-made pools take them too."""
    takes = {
        "threads": set(get_type_hints(prodpool.PoolOptions)),
        "processes": set(get_type_hints(prodpool.HandoffOptions)),
    }
    signature = inspect.signature(prodpool.InstrumentedPool)
    described = dict(_arguments(str(prodpool.InstrumentedPool.__doc__)))
    rows = []
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            ready = name in {"name", "max_workers"} or name in takes["threads"]
            where = "all" if ready else "`processes`, `dask`" if name in takes["processes"] else "none"
            default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
            rows.append((f"`{name}`", default, where, described[name]))
    return table(("option", "default", "ready-made pools that take it", "meaning"), rows)


def task_options() -> str:
    """Return the options of a task."""
    method = prodpool.InstrumentedPool.options
    rows = [(f"`{name}`", text) for name, text in _arguments(str(method.__doc__))]
    return table(("option", "meaning"), rows)


def _arguments(doc: str) -> Iterator[tuple[str, str]]:
    """Yield name and description of each argument in a docstring of Google's form."""
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(doc), re.DOTALL | re.MULTILINE)
    assert section is not None  # noqa: S101
    for found in re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE):
        yield found[1], re.sub(r"\s+", " ", found[2]).replace("``", "`").replace("|", "\\|")


if __name__ == "__main__":
    parts = [
        ("docs/reference/metrics.md", "metrics", metrics()),
        ("docs/reference/alerts.md", "alerts", alerts()),
        ("docs/reference/alerts.md", "thresholds", thresholds()),
        ("docs/reference/settings.md", "pool options", pool_options()),
        ("docs/reference/settings.md", "task options", task_options()),
    ]
    write(parts, "tools/reference_tables.py")
