"""What is shipped beside the code for whoever runs it: alert rules, runbook, dashboards.

``alerts.py`` and ``budget.py`` are the one table of alerts, ``settings.py`` holds its thresholds; rules,
mixin and runbook are all written from these. Nothing here is imported by a running pool.
"""
