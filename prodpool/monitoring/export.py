"""The files that can be exported, by their names, made for the settings chosen."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from prodpool.monitoring.dashboard_labels import add_labels
from prodpool.monitoring.formatting import decimal
from prodpool.monitoring.prometheus_rules import rule_files
from prodpool.monitoring.runbook import runbook
from prodpool.monitoring.thresholds import AlertThresholds

KINDS = ("dashboards", "alerts", "runbook")


class NoFilesError(RuntimeError):
    """Raised when this installation lacks what is to be exported."""


def render_files(kind: str, settings: AlertThresholds) -> dict[str, str]:
    """Return the text of each file of a kind, or of every kind in folders of their own for ``all``.

    Raises:
        NoFilesError: The dashboards are not where they are installed to.
    """
    if kind == "dashboards":
        return dashboard_files(settings)
    if kind == "alerts":
        return rule_files(settings)
    if kind == "runbook":
        return {"runbook.md": runbook(settings)}
    return {
        **{f"dashboards/{name}": text for name, text in dashboard_files(settings).items()},
        **{f"alerts/{name}": text for name, text in rule_files(settings).items()},
        "runbook.md": runbook(settings),
    }


def dashboard_files(settings: AlertThresholds) -> dict[str, str]:
    """Return the dashboards, each with the objective, the runbook's address and the labels chosen."""
    found = {
        each.name: _chosen(json.loads(each.read_text()), settings)
        for folder in (files("prodpool.monitoring") / "dashboards", _beside_the_package())
        if folder.is_dir()
        for each in folder.iterdir()
        if each.name.endswith(".json")
    }
    if not found:
        raise NoFilesError(
            "this installation has no dashboards: install a wheel of prodpool, or use a checkout of it"
        )
    return dict(sorted(found.items()))


def _beside_the_package() -> Traversable:
    """Return where the dashboards are in a checkout; a wheel brings them inside of the package."""
    return Path(__file__).parent.parent.parent / "dashboards"


def _chosen(dashboard: dict[str, Any], settings: AlertThresholds) -> str:
    for variable in dashboard["templating"]["list"]:
        if variable["name"] == "runbook":
            _choose(variable, settings.runbook_url)
            variable["query"] = settings.runbook_url
        elif variable["name"] == "slo":
            _choose(variable, decimal(settings.slo))
    if settings.namespace_labels:
        add_labels(dashboard, settings.namespace_labels)
    return json.dumps(dashboard, indent=2, sort_keys=True) + "\n"


def _choose(variable: dict[str, Any], value: str) -> None:
    """Make ``value`` the one that is selected, offering it if it was not offered."""
    options = variable.get("options")
    if isinstance(options, list) and options:
        if all(option["value"] != value for option in options):
            options.append({**options[0], "text": value, "value": value})
            variable["query"] = f"{variable['query']},{value}"
        for option in options:
            option["selected"] = option["value"] == value
    if variable.get("current"):
        variable["current"] |= {"text": value, "value": value}
