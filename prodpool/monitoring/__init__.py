"""What ships beside the code for on-call engineers: alert rules, runbook and dashboards.

``alerts.py`` and ``slo_alerts.py`` are the one table of alerts, ``thresholds.py`` holds its thresholds.
Rules, mixin and runbook are all written from these. Nothing here is imported by a running pool.
"""
