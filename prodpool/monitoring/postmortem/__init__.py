"""The postmortem: what a Prometheus knows of an incident, written into the template of the runbook."""
