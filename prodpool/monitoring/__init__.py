"""What ships beside the code for on-call engineers: alert rules, runbook and dashboards.

``alerts.py`` and ``slo_alerts.py`` are the one table of alerts, ``thresholds.py`` holds its thresholds.
Rules, mixin and runbook are all written from these. ``postmortem.py`` fills the runbook's template from what
a Prometheus stored. Nothing here is imported by a running pool.
"""
