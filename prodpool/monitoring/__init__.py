"""What is shipped beside the code for those who run it: alert rules, runbook, dashboards.

``alerts.py`` and ``budget.py`` are the one table of alerts, ``settings.py`` holds its thresholds; rules,
mixin and runbook are all written from these. Nothing here is imported by a running pool.
"""
