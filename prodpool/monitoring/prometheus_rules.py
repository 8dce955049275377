"""The files of ``alerts/``, written from the table of alerts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from prodpool.monitoring.alerts import ALERTS, GROUPS
from prodpool.monitoring.formatting import duration
from prodpool.monitoring.model import Alert, Group, Record, render
from prodpool.monitoring.pool_thresholds import common_expr, pool_expr, pools_apart
from prodpool.monitoring.thresholds import AlertThresholds
from prodpool.monitoring.yaml_writer import Value, to_yaml

_ORIGIN = "Written by `prodpool export`: change a threshold with its options, not here."
_RULES_HEAD = f"""{_ORIGIN}
Load it with `rule_files:` of prometheus.yml, and look at it with `promtool check rules`.
What each alert means, and what to do: runbook.md."""
_OPERATOR_HEAD = f"""{_ORIGIN}
The same rules for the Prometheus Operator. Give it the labels that your Prometheus selects rules by."""
_ROUTES_HEAD = f"""{_ORIGIN}
Take `route` and `inhibit_rules` over into your own Alertmanager file, and give the receivers your pager and
your chat; as it stands it is complete and tells nobody. One fault is one notification: the alerts of a job
come together; a critical alert of a pool holds back the warnings of that pool that do not name a cause; and
an alert that says why holds back those that come of it. Prometheus and the dashboards still show them."""
_MIXIN_HEAD = f"""{_ORIGIN}
The same rules as a mixin: (import 'mixin.libsonnet') + {{ ... }}"""


def groups(settings: AlertThresholds) -> list[Value]:
    """Return the rule groups as Prometheus wants them."""
    return [_group(group, settings) for group in GROUPS]


def rule_files(settings: AlertThresholds) -> dict[str, str]:
    """Return every file of the alerts by its name."""
    return {
        "prodpool.rules.yml": to_yaml({"groups": groups(settings)}, _RULES_HEAD),
        "prodpool.prometheusrule.yml": to_yaml(_operator(settings), _OPERATOR_HEAD),
        "alertmanager.yml": to_yaml(_routes(settings), _ROUTES_HEAD),
        "mixin.libsonnet": _mixin(settings),
    }


def _group(group: Group, settings: AlertThresholds) -> Value:
    interval = {} if group.every is None else {"interval": _at_least_a_second(group.every, settings)}
    return {
        "name": group.name,
        **interval,
        "rules": [made for rule in group.rules for made in _rules(rule, settings)],
    }


def _at_least_a_second(seconds: float, settings: AlertThresholds) -> str:
    return duration(max(1.0, seconds * settings.window_scale))


def _rules(rule: Record | Alert, settings: AlertThresholds) -> Iterator[Value]:
    """Yield a rule, and one more for each pool for which its own thresholds make it another."""
    if isinstance(rule, Record):
        yield {"record": rule.name, "expr": render(rule.expr, settings)}
        return
    yield _alert(rule, settings, common_expr(rule, settings), rule.labels())
    for pool, own in pools_apart(rule, settings).items():
        # The label is on every alert of the rule already. Without it written down, promtool would take rules
        # of one name for duplicates.
        yield _alert(rule, own, pool_expr(rule, pool, own), {**rule.labels(), "pool": pool})


def _alert(rule: Alert, settings: AlertThresholds, expr: str, labels: dict[str, str]) -> Value:
    waits = rule.holds_for(settings)
    return {
        "alert": rule.name,
        "expr": expr,
        **({"for": duration(waits)} if waits else {}),
        "labels": labels,
        "annotations": rule.annotations(settings),
    }


def _operator(settings: AlertThresholds) -> dict[str, Value]:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "prodpool", "labels": {"app.kubernetes.io/part-of": "prodpool"}},
        "spec": {"groups": groups(settings)},
    }


def _routes(settings: AlertThresholds) -> dict[str, Value]:
    ours = 'component="workerpool"'
    same_pool: list[Value] = list(settings.service.split(", "))
    same_process: list[Value] = list(settings.process.split(", "))
    naming = [alert.name for alert in ALERTS if alert.names_cause]
    same_job: list[Value] = [label for label in same_pool if label != "pool"]
    return {
        "route": {
            "receiver": "default",
            "routes": [
                {
                    "matchers": [ours],
                    "receiver": "worker-pools-chat",
                    "group_by": same_job,
                    "group_wait": settings.window(30),
                    "group_interval": settings.window(300),
                    "repeat_interval": "4h",
                    "routes": [{"matchers": ['severity="critical"'], "receiver": "worker-pools-pager"}],
                }
            ],
        },
        "inhibit_rules": [
            {
                "source_matchers": [ours, 'severity="critical"'],
                "target_matchers": [ours, 'severity=~"warning|info"', f'alertname!~"{_any(naming)}"'],
                "equal": same_pool,
            },
            *(
                {
                    "source_matchers": [ours, f'alertname=~"{_any(alert.held_back_by)}"'],
                    "target_matchers": [ours, f'alertname="{alert.name}"'],
                    "equal": same_process if _of_one_process(alert) else same_pool,
                }
                for alert in ALERTS
                if alert.held_back_by
            ),
        ],
        "receivers": [{"name": "default"}, {"name": "worker-pools-chat"}, {"name": "worker-pools-pager"}],
    }


def _any(names: Iterable[str]) -> str:
    return "|".join(names)


def _of_one_process(alert: Alert) -> bool:
    """Tell whether an alert and all that hold it back are each of one process."""
    return all(each.per_process for each in ALERTS if each.name in {alert.name, *alert.held_back_by})


def _mixin(settings: AlertThresholds) -> str:
    """Return a jsonnet file: JSON is jsonnet, and ``+::`` makes a hidden field that others can add to."""
    alerts: list[Value] = []
    records: list[Value] = []
    for group in GROUPS:
        every: dict[str, Any] = (
            {} if group.every is None else {"interval": _at_least_a_second(group.every, settings)}
        )
        for kind, found in ((Alert, alerts), (Record, records)):
            rules = [
                made for rule in group.rules if isinstance(rule, kind) for made in _rules(rule, settings)
            ]
            if rules:
                found.append({"name": group.name, **every, "rules": rules})
    fields = {"prometheusAlerts": alerts, "prometheusRules": records}
    comment = "".join(f"// {line}\n" for line in _MIXIN_HEAD.splitlines())
    body = ",\n".join(
        f"  {name}+:: " + json.dumps({"groups": value}, indent=2).replace("\n", "\n  ")
        for name, value in fields.items()
    )
    return f"{comment}{{\n{body},\n}}\n"
