"""The triage of an incident: signs, log and stacks, and the commands that sum them up."""
