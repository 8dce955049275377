"""The runbook, written from its template, the table of alerts, the metrics and the incidents replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.formatting import decimal, humanize
from prodpool.monitoring.incident_history import findings, history_values
from prodpool.monitoring.model import Alert, render, setting_values
from prodpool.monitoring.pool_thresholds import common_expr, for_each_pool, pool_expr, pools_apart
from prodpool.monitoring.selectors import add_grouping
from prodpool.monitoring.slo_alerts import BURNS, BurnRate
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.triage.signs import linked, triage_values
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS

TEMPLATE = "runbook.template.md"
TRIAGE = "#60-seconds-of-triage"
_SECTION = re.compile(r"^### (\w+)$", re.MULTILINE)
# A block of PromQL, or a list of labels in the middle of a sentence.
_QUERY = re.compile(r"(?<=```promql\n).*?(?=```)|(?<=`)by \([^`]*\)(?=`)", re.DOTALL)
# Values that are part of a query: there is no room in it for those of several pools.
_IN_QUERIES = {"dwell_le"}


def runbook(settings: AlertThresholds) -> str:
    """Return the runbook as Markdown, with every threshold as the rules have it.

    Raises:
        KeyError: The template names a value or an alert that there is not.
    """
    template = (files("prodpool.monitoring") / TEMPLATE).read_text(encoding="utf-8")
    head, *rest = _SECTION.split(template)
    values = {
        "metric_table": _metric_table(),
        "alert_index": _alert_index(settings),
        **triage_values(settings),
        **_spoken(settings),
        **history_values(findings()),
    }
    parts = [render(head, settings, values)]
    alerts = {alert.name: alert for alert in ALERTS}
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        own = {**values, **_facts(alerts[name], settings)}
        parts.append(f"### {name}\n\n{render(text, settings, own)}")
    return _grouped("\n\n".join(parts) + "\n", settings)


def _spoken(settings: AlertThresholds) -> dict[str, str]:
    """Return the values of the settings, with those of the pools that have others."""

    def spoken(name: str) -> str:
        return for_each_pool(lambda own: setting_values(own)[name], settings)

    return {name: spoken(name) for name in setting_values(settings) if name not in _IN_QUERIES}


def _grouped(page: str, settings: AlertThresholds) -> str:
    """Add the further labels to the queries that spell their labels out."""
    labels = settings.namespace_labels
    return _QUERY.sub(lambda found: add_grouping(found[0], labels, ("job", "pool")), page) if labels else page


def _held(waits: float) -> str:
    return f"once it has held for {humanize(waits)}" if waits else "as soon as it is seen"


def _rule(alert: Alert, settings: AlertThresholds) -> str:
    blocks = [f"```promql\n{common_expr(alert, settings)}\n```"]
    for pool, own in pools_apart(alert, settings).items():
        blocks.append(f"For `{pool}`:\n\n```promql\n{pool_expr(alert, pool, own)}\n```")
    return "\n\n".join(blocks)


def _facts(alert: Alert, settings: AlertThresholds) -> dict[str, str]:
    held = for_each_pool(lambda own: _held(alert.holds_for(own)), settings)
    each = "each process" if alert.per_process else "all processes of a service together"
    facts = {
        "facts": f"**{alert.severity}**, {held}; for {each}. The [triage]({TRIAGE}) finds the cause.",
        "rule": _rule(alert, settings),
        "panel": _panel(alert, settings),
    }
    burns: dict[str, BurnRate] = {burn.name: burn for burn in BURNS}
    if alert.name in burns:
        burn = burns[alert.name]
        share = for_each_pool(lambda own: _percent(float(burn.threshold(own))), settings)
        facts |= {"share": share, "factor": decimal(burn.factor), "spent": burn.spent()}
    return facts


def _percent(share: float) -> str:
    return f"{decimal(round(share * 100, 6))} %"


def _panel(alert: Alert, settings: AlertThresholds) -> str:
    url = alert.panel_url(settings)
    # Without the address of a Grafana there is nothing that a link could lead to.
    return f"[{alert.panel.title}]({url})" if settings.dashboard_url else f"*{alert.panel.title}* (`{url}`)"


def _alert_index(settings: AlertThresholds) -> str:
    def lines() -> Iterator[str]:
        yield "| alert | severity | in one line |"
        yield "|---|---|---|"
        for alert in ALERTS:
            line = render(alert.summary, settings, _spoken(settings)).replace("{{ $labels.pool }}", "*p*")
            line = line.replace("{{ $labels.instance }}", "*i*")
            yield f"| {linked(alert.name)} | {alert.severity} | {line} |"

    return "\n".join(lines())


def _metric_table() -> str:
    def lines() -> Iterator[str]:
        yield "| metric | type | labels beside `pool` | meaning |"
        yield "|---|---|---|---|"
        for kind, specs in (("counter", COUNTERS), ("gauge", GAUGES)):
            for spec in specs:
                labels = "".join(f" `{label}`" for label in spec.labels)
                yield f"| `{spec.name}` | {kind} |{labels} | {spec.help} |"
        for each in HISTOGRAMS:
            yield f"| `{each.name}` | histogram | | {each.help} |"

    return "\n".join(lines())
