"""The runbook, written from its template, the table of alerts, the metrics and the incidents replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files

from prodpool.monitoring.alerts import ALERTS
from prodpool.monitoring.formatting import decimal, humanize
from prodpool.monitoring.incident_history import findings, history_values
from prodpool.monitoring.model import Alert, render
from prodpool.monitoring.slo_alerts import BURNS, BurnRate
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.telemetry.metrics import COUNTERS, GAUGES, HISTOGRAMS

TEMPLATE = "runbook.template.md"
_SECTION = re.compile(r"^### (\w+)$", re.MULTILINE)


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
        **history_values(findings()),
    }
    parts = [render(head, settings, values)]
    alerts = {alert.name: alert for alert in ALERTS}
    for name, text in zip(rest[::2], rest[1::2], strict=True):
        own = {**values, **_facts(alerts[name], settings)}
        parts.append(f"### {name}\n\n{render(text, settings, own)}")
    return "\n\n".join(parts) + "\n"


def _facts(alert: Alert, settings: AlertThresholds) -> dict[str, str]:
    waits = alert.holds_for(settings)
    held = f"once it has held for {humanize(waits)}" if waits else "as soon as it is seen"
    each = "each process" if alert.per_process else "all processes of a service together"
    facts = {
        "facts": f"**{alert.severity}**, {held}; for {each}.",
        "rule": f"```promql\n{render(alert.expr, settings)}\n```",
        "panel": _panel(alert, settings),
    }
    burns: dict[str, BurnRate] = {burn.name: burn for burn in BURNS}
    if alert.name in burns:
        burn = burns[alert.name]
        share = decimal(round(float(burn.threshold(settings)) * 100, 6))
        facts |= {"share": f"{share} %", "factor": decimal(burn.factor), "spent": burn.spent()}
    return facts


def _panel(alert: Alert, settings: AlertThresholds) -> str:
    url = alert.panel_url(settings)
    # Without the address of a Grafana there is nothing that a link could lead to.
    return f"[{alert.panel.title}]({url})" if settings.dashboard_url else f"*{alert.panel.title}* (`{url}`)"


def _alert_index(settings: AlertThresholds) -> str:
    def lines() -> Iterator[str]:
        yield "| alert | severity | in one line |"
        yield "|---|---|---|"
        for alert in ALERTS:
            line = render(alert.summary, settings).replace("{{ $labels.pool }}", "*p*")
            line = line.replace("{{ $labels.instance }}", "*i*")
            yield f"| [{alert.name}](#{alert.name.lower()}) | {alert.severity} | {line} |"

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
